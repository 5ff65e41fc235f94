"""Decoder-only models against transformers' own forward and generate, on tiny random ones."""

import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from fusionbench.families import HasTextToText, HasTokens, family_named, load_module
from fusionbench.weights.sources import open_source

FAMILY = family_named("causal_lm")
SIZES = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
TIED = {"llama": True, "mistral": False, "mixtral": False, "qwen2": True}
dense = pytest.mark.parametrize("pair", [kind for kind in TIED if kind != "mixtral"], indirect=True)


def make(folder: Path, kind: str, **changes):
    logging.disable_progress_bar()
    config = AutoConfig.for_model(kind, **SIZES, **({"tie_word_embeddings": TIED[kind]} | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(params=sorted(TIED))
def pair(request, tmp_path):
    """The model as Hugging Face made it, and as the family loads it from its folder."""
    model = make(tmp_path / "model", request.param)
    source = open_source(tmp_path / "model")
    return model, load_module(FAMILY, source), source


TEXTS = [[5, 6, 7, 8, 9, 3], [10, 11], [12], [3, 4, 5]]


def padded() -> dict[str, torch.Tensor]:
    return FAMILY.collate([{"input_ids": text} for text in TEXTS])


def test_collate_fills_questions_up_on_the_left_and_answers_on_the_right():
    batch = FAMILY.collate([{"input_ids": [5, 6, 7], "label": [9, 1]}, {"input_ids": [8], "label": [4, 3, 1]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["labels"].tolist() == [[9, 1, -100], [4, 3, 1]]


def test_the_mask_covers_all_that_is_run(pair):
    _, module, _ = pair
    batch = FAMILY.collate([{"input_ids": [5, 6], "label": [9, 1]}, {"input_ids": [8], "label": [4, 3, 1]}])
    assert FAMILY.token_mask(batch).tolist() == [[True, True, True, False], [False, True, True, True]]
    short = {key: item for key, item in batch.items() if key != "labels"}
    assert FAMILY.token_mask(short).tolist() == [[True, True], [False, True]]
    written = short | {"decoder_input_ids": torch.tensor([[0, 4, 5], [0, 6, 1]])}
    assert FAMILY.token_mask(written).tolist() == [[True] * 4, [False, True, True, True]]
    marked = written | {"real": torch.tensor([[1, 1, 1], [1, 0, 0]])}
    assert FAMILY.token_mask(marked).tolist() == [[True] * 4, [False, True, False, False]]
    seen = []
    module.model.layers[0].register_forward_hook(lambda _, given, made: seen.append(given[0].shape[:2]))
    for one in (short, written):
        FAMILY.features(module, one)
        assert seen[-1] == FAMILY.token_mask(one).shape


def test_features_are_the_logits_of_transformers_after_the_question_and_after_each_written_token(pair):
    model, module, _ = pair
    written = torch.tensor([[0, 7, 8], [0, 9, 2], [0, 1, 3], [0, 4, 4]])
    with torch.no_grad():
        ours = FAMILY.features(module, padded() | {"decoder_input_ids": written})
        first = FAMILY.features(module, padded())
        assert ours.shape == (4, 3, 24)
        assert first.shape == (4, 1, 24)
        for row, (text, line) in enumerate(zip(TEXTS, written.tolist(), strict=True)):
            theirs = model(torch.tensor([text + line[1:]])).logits[0, len(text) - 1 :]
            torch.testing.assert_close(ours[row], theirs, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(first[row], theirs[:1], atol=1e-4, rtol=1e-4)


def test_positions_are_counted_over_real_tokens_and_padding_is_masked():
    given = {}

    def backbone(**asked):
        given.update(asked)
        return types.SimpleNamespace(logits=torch.zeros(2, 2, 24))

    batch = FAMILY.collate([{"input_ids": [5, 6, 7]}, {"input_ids": [8]}])
    FAMILY.features(backbone, batch | {"decoder_input_ids": torch.tensor([[0, 3], [0, 4]])})
    assert given["input_ids"].tolist() == [[5, 6, 7, 3], [0, 0, 8, 4]]
    assert given["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert given["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]


def test_several_answers_to_a_question_stand_next_to_each_other(pair):
    _, module, _ = pair
    written = torch.arange(2, 18).view(8, 2)
    with torch.no_grad():
        together = FAMILY.features(module, padded() | {"decoder_input_ids": written})
        for answer in range(2):
            alone = FAMILY.features(module, padded() | {"decoder_input_ids": written[answer::2]})
            torch.testing.assert_close(together[answer::2], alone)


def test_decoding_writes_what_greedy_generate_writes(pair):
    model, module, _ = pair
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(2, 24, (length,), generator=generator) for length in range(1, 25)]
    batch = FAMILY.collate([{"input_ids": text} for text in texts])
    theirs = model.generate(**batch, max_new_tokens=8, do_sample=False, num_beams=1)[:, batch["input_ids"].shape[1] :]
    with torch.no_grad():
        ours = FAMILY.decode(module, batch, 8)
    assert ours.tolist() == theirs.tolist()
    assert len({tuple(line) for line in ours.tolist()}) > 2


def test_a_text_ends_with_the_configurations_first_end_and_is_padded(tmp_path):
    make(tmp_path / "model", "llama")
    source = open_source(tmp_path / "model")
    module = load_module(FAMILY, source)
    with torch.no_grad():
        free = FAMILY.decode(module, padded(), 4)
        ending = int(free[0, 0])
        module.config.eos_token_id, module.config.pad_token_id = [ending, 23], None
        ended = FAMILY.decode(module, padded(), 4)
        assert ended[0].tolist() == [ending] * ended.shape[1]
        module.config.eos_token_id = None
        assert FAMILY.decode(module, padded(), 4).shape == (4, 4)


@dense
def test_a_tied_head_is_the_embedding_and_no_map_of_its_own(pair):
    model, module, source = pair
    tied = source.config["model_type"] != "mistral"
    assert ("lm_head.weight" in source.specs) is not tied
    assert (module.lm_head.weight is module.model.embed_tokens.weight) is tied
    names = [site.name for site in FAMILY.linears(module)]
    assert ("lm_head" in names) is not tied
    # q k v o and gate up down, of two blocks
    assert len([name for name in names if name != "lm_head"]) == 2 * 7
    assert torch.equal(module.lm_head.weight, model.lm_head.weight)


def test_frequencies_of_old_checkpoints_are_passed_over(tmp_path):
    make(tmp_path / "model", "llama")
    tensors = load_file(tmp_path / "model/model.safetensors")
    config = open_source(tmp_path / "model").config
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    save_file(tensors, tmp_path / "old.safetensors")
    module = load_module(FAMILY, open_source(tmp_path / "old.safetensors"), config)
    assert torch.equal(module.model.norm.weight, tensors["model.norm.weight"])


@dense
def test_parts_are_those_of_a_gated_mlp(pair):
    _, module, _ = pair
    assert FAMILY.blocks(module) == ["model.layers.0", "model.layers.1"]
    assert FAMILY.mlps(module) == ["model.layers.0.mlp", "model.layers.1.mlp"]
    up, down, gate = FAMILY.mlp_parts(module)
    mlp = module.get_submodule("model.layers.1.mlp")
    given = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    part = {name: mlp.get_submodule(name) for name in (up, down, gate)}
    with torch.no_grad():
        theirs = part[down](torch.nn.functional.silu(part[gate](given)) * part[up](given))
        torch.testing.assert_close(mlp(given), theirs)


def test_the_family_writes_texts_of_tokens():
    assert isinstance(FAMILY, HasTextToText)
    assert isinstance(FAMILY, HasTokens)
