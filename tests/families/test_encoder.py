from pathlib import Path

import pytest
import torch

from fusionbench.errors import IncompatibleModels
from fusionbench.families import HasHead, HasTextInput, family_named, load_module
from fusionbench.families.tokens import pad_together
from fusionbench.weights.sources import open_source

FAMILY = family_named("encoder")
SIZE = {
    "vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 20, "num_labels": 3, "pad_token_id": 1,
}  # fmt: skip
KINDS = ("bert", "roberta", "xlm-roberta")
EXAMPLES = [{"input_ids": [2, 5, 6, 3]}, {"input_ids": [2, 7, 3]}, {"input_ids": [2, 8, 9, 10, 11, 3]}]


@pytest.fixture(scope="module", params=KINDS)
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier as Hugging Face writes it."""
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(request.param, **SIZE))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    folder = tmp_path_factory.mktemp("encoder") / request.param
    model.save_pretrained(folder)
    return folder


def test_it_has_texts_for_input_and_trained_heads():
    assert isinstance(FAMILY, HasTextInput)
    assert isinstance(FAMILY, HasHead)


def test_features_and_head_give_the_logits_of_plain_transformers(classifier):
    from transformers import AutoModelForSequenceClassification

    source = open_source(classifier)
    theirs = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    head = FAMILY.head_module(source.config, 3).eval()
    head.load_state_dict(theirs.classifier.state_dict())
    batch = pad_together(EXAMPLES, pad=1)
    with torch.no_grad():
        ours = head(FAMILY.features(load_module(FAMILY, source), batch))
        torch.testing.assert_close(ours, theirs(**batch).logits, rtol=1e-5, atol=1e-5)


def test_a_new_head_has_the_form_and_the_numbers_of_plain_transformers(classifier):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(classifier)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = AutoModelForSequenceClassification.from_config(config).classifier.state_dict()
        ours = FAMILY.head_module(config.to_dict(), 3).state_dict()
    assert {name: tuple(t.shape) for name, t in ours.items()} == {name: tuple(t.shape) for name, t in theirs.items()}
    for name, tensor in ours.items():
        if name.endswith("bias"):
            assert not tensor.any()
        else:
            assert float(tensor.std()) == pytest.approx(0.02, rel=0.4)


def test_a_head_in_training_drops_features_and_a_frozen_one_does_not(classifier):
    config = open_source(classifier).config | {"hidden_dropout_prob": 0.5, "classifier_dropout": None}
    head, features = FAMILY.head_module(config, 3), torch.ones(4, 16)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


def test_only_the_body_of_a_classifier_is_named(classifier):
    names = FAMILY.names(open_source(classifier).specs)
    assert not any("classifier" in name for name in names)
    assert set(names.values()) == set(load_module(FAMILY, open_source(classifier)).state_dict())


def test_linear_maps_include_the_pooler_where_there_is_one(classifier):
    module = load_module(FAMILY, open_source(classifier))
    names = [site.name for site in FAMILY.linears(module)]
    assert ("pooler.dense" in names) == (classifier.name == "bert")
    assert len(names) == 2 * 6 + (classifier.name == "bert")


def test_a_bert_without_a_pooler_is_refused_by_its_name(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    BertForMaskedLM(BertConfig(**SIZE)).save_pretrained(tmp_path / "masked")
    with pytest.raises(IncompatibleModels, match=r"pooler\.dense\.weight is missing"):
        load_module(FAMILY, open_source(tmp_path / "masked"))


def test_token_types_are_padded_with_zeros():
    pair = {"input_ids": [2, 5, 3, 6, 3], "token_type_ids": [0, 0, 0, 1, 1]}
    batch = FAMILY.collate([pair, {"input_ids": [2, 5, 3], "token_type_ids": [0, 0, 0]}])
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("prefix", ["roberta.", ""])
def test_the_pooler_of_a_roberta_of_the_hub_is_passed_over_and_stays_the_bases_in_a_merge(tmp_path, prefix):
    from safetensors.torch import load_file, save_file
    from transformers import RobertaConfig, RobertaForSequenceClassification

    from fusionbench import fuse

    config = RobertaConfig(**SIZE, type_vocab_size=1)
    for name in ("expert", "base"):
        RobertaForSequenceClassification(config).save_pretrained(tmp_path / name)
    expert = load_file(tmp_path / "expert/model.safetensors")
    body = {n.removeprefix("roberta."): t for n, t in expert.items() if n.startswith("roberta.")}
    base = {prefix + name: tensor + 1 for name, tensor in body.items()}
    base |= {f"{prefix}pooler.dense.weight": torch.full((16, 16), 5.0), f"{prefix}pooler.dense.bias": torch.ones(16)}
    save_file(base, tmp_path / "base/model.safetensors")
    module = load_module(FAMILY, open_source(tmp_path / "base"))
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(module.state_dict()[name], base[prefix + name])
    fuse("simple_average", {"base": str(tmp_path / "base"), "a": str(tmp_path / "expert")}).save(tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(merged[f"{prefix}pooler.dense.weight"], torch.full((16, 16), 5.0))
    assert torch.equal(merged[prefix + name], body[name])


def test_norms_under_the_names_of_the_first_bert_files_are_read_and_written_so(tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertForSequenceClassification

    from fusionbench import fuse

    BertForSequenceClassification(BertConfig(**SIZE)).save_pretrained(tmp_path / "expert")
    expert = load_file(tmp_path / "expert/model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    base = {
        next((name.replace(new, was) for new, was in old.items() if new in name), name): tensor + 1
        for name, tensor in expert.items()
        if name.startswith("bert.")
    }
    base |= {"cls.seq_relationship.bias": torch.ones(2)}
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text((tmp_path / "expert/config.json").read_text())
    save_file(base, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    module = load_module(FAMILY, open_source(tmp_path / "base"))
    assert torch.equal(module.embeddings.LayerNorm.weight, base["bert.embeddings.LayerNorm.gamma"])
    both = {"base": str(tmp_path / "base"), "a": str(tmp_path / "expert"), "b": str(tmp_path / "expert")}
    fuse("task_arithmetic", both, scale=0.5).save(tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    assert set(merged) == set(base)
    name = "bert.encoder.layer.1.output.LayerNorm."
    torch.testing.assert_close(merged[f"{name}gamma"], expert[f"{name}weight"])
    assert torch.equal(merged["cls.seq_relationship.bias"], torch.ones(2))
