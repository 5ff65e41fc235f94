from pathlib import Path

import pytest
import torch

from fusionbench.families import HasHead, HasTextInput, family_named, load_module
from fusionbench.families.tokens import pad_together
from fusionbench.weights.sources import open_source

FAMILY = family_named("gpt2")
LENGTHS = (3, 7, 1, 5)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier as Hugging Face writes it, with a padding token of its own."""
    from transformers import GPT2Config, GPT2ForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = GPT2Config(
        vocab_size=20, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1, pad_token_id=0,
        num_labels=3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2ForSequenceClassification(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    folder = tmp_path_factory.mktemp("gpt2") / "classifier"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def module(classifier: Path) -> torch.nn.Module:
    return load_module(FAMILY, open_source(classifier))


def texts() -> list[torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return [torch.randint(2, 20, (length,)) for length in LENGTHS]


def padded(rows: list[torch.Tensor], width: int, *, left: bool) -> dict[str, torch.Tensor]:
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def test_it_has_texts_for_input_and_trained_heads():
    assert isinstance(FAMILY, HasTextInput)
    assert isinstance(FAMILY, HasHead)


@pytest.mark.parametrize(("width", "left"), [(7, False), (7, True), (12, False), (16, True)])
def test_padding_of_any_amount_on_either_side_changes_nothing(module, width, left):
    rows = texts()
    with torch.no_grad():
        alone = torch.stack([module(row[None]).last_hidden_state[0, -1] for row in rows])
        found = FAMILY.features(module, padded(rows, width, left=left))
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_a_text_that_holds_the_padding_token_is_read_to_its_real_end(module):
    # by the mask, not by the token's number: the first text ends in token 0
    rows = [torch.tensor([5, 6, 0]), torch.tensor([7, 8, 9, 10, 11])]
    with torch.no_grad():
        alone = module(rows[0][None]).last_hidden_state[0, -1]
        found = FAMILY.features(module, padded(rows, 5, left=False))[0]
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_features_and_head_give_the_logits_of_plain_transformers(module, classifier):
    from transformers import AutoModelForSequenceClassification

    theirs = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    batch = padded(texts(), 9, left=False)
    head = FAMILY.head_module(open_source(classifier).config, 3)
    head.load_state_dict(theirs.score.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(head(FAMILY.features(module, batch)), theirs(**batch).logits, rtol=1e-5, atol=1e-5)


def test_only_the_transformer_of_a_classifier_is_named(classifier):
    names = FAMILY.names(open_source(classifier).specs)
    assert "score.weight" not in names
    assert names["transformer.h.0.attn.c_attn.weight"] == "h.0.attn.c_attn.weight"
    assert all(name == f"transformer.{own}" for name, own in names.items())


def test_linear_maps_have_their_inputs_first(module):
    sites = {site.name: site for site in FAMILY.linears(module)}
    assert not any(site.inputs_last for site in sites.values())
    assert tuple(sites["h.1.mlp.c_fc"].module.weight.shape) == (16, 64)
    assert list(sites)[:4] == ["h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj"]


@pytest.mark.parametrize(("config", "pad"), [({"eos_token_id": 7}, 7), ({"eos_token_id": 7, "pad_token_id": 0}, 0)])
def test_a_classifiers_configuration_says_which_token_pads(config, pad):
    said = FAMILY.head_config(config, ("no", "yes"))
    assert said["pad_token_id"] == pad
    assert said["id2label"] == {"0": "no", "1": "yes"}
    assert said["label2id"] == {"no": 0, "yes": 1}


def test_a_batch_is_filled_up_on_the_right_to_its_longest():
    batch = pad_together([{"input_ids": [5, 6], "label": 1}, {"input_ids": [7], "label": 0}], pad=9)
    assert batch["input_ids"].tolist() == [[5, 6], [7, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert FAMILY.token_mask(batch).tolist() == [[True, True], [True, False]]
