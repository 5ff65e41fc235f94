"""T5 against transformers' own forward and generate, on tiny random models."""

from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration
from transformers.utils import logging

from fusionbench.families import HasTextToText, family_named, load_module
from fusionbench.weights.sources import open_source

FAMILY = family_named("t5")
SIZES = {"vocab_size": 24, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
KINDS = {"t5": {}, "flan": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}}


def make(folder: Path, kind: str, **changes) -> T5ForConditionalGeneration:
    logging.disable_progress_bar()
    config = T5Config(**SIZES, num_decoder_layers=3, decoder_start_token_id=0, **KINDS[kind], **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config)
        if kind == "flan":
            model.lm_head.weight = torch.nn.Parameter(torch.empty(24, 16))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(params=sorted(KINDS))
def pair(request, tmp_path):
    """The model as Hugging Face made it, and as the family loads it from its folder."""
    model = make(tmp_path / "model", request.param)
    source = open_source(tmp_path / "model")
    return model, load_module(FAMILY, source), source


def padded() -> dict[str, torch.Tensor]:
    texts = [[5, 6, 7, 8, 9, 1], [10, 11, 1], [12, 1], [3, 4, 5, 1]]
    return FAMILY.collate([{"input_ids": text} for text in texts])


def test_collate_fills_up_on_the_right_and_masks_what_it_filled():
    batch = FAMILY.collate([{"input_ids": [5, 6, 1], "label": [9, 1]}, {"input_ids": [7, 1], "label": [4, 3, 1]}])
    assert batch["input_ids"].tolist() == [[5, 6, 1], [7, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[9, 1, -100], [4, 3, 1]]
    assert FAMILY.token_mask(batch).tolist() == [[True, True, True], [True, True, False]]


def test_features_are_the_logits_of_transformers_at_the_first_and_at_given_positions(pair):
    model, module, _ = pair
    batch = padded()
    for written in ([[0]] * 4, [[0, 7, 8], [0, 9, 2], [0, 1, 0], [0, 4, 4]]):
        given = torch.tensor(written)
        with torch.no_grad():
            theirs = model(**batch, decoder_input_ids=given).logits
            ours = FAMILY.features(module, batch | ({"decoder_input_ids": given} if given.shape[1] > 1 else {}))
        assert torch.equal(ours, theirs)


def test_the_mask_is_passed_so_padding_changes_nothing(pair):
    _, module, _ = pair
    together = FAMILY.features(module, padded())
    alone = FAMILY.features(module, FAMILY.collate([{"input_ids": [10, 11, 1]}]))
    torch.testing.assert_close(together[1], alone[0])
    unmasked = padded() | {"attention_mask": torch.ones(4, 6, dtype=torch.int64)}
    assert not torch.allclose(FAMILY.features(module, unmasked)[1], alone[0], atol=1e-3)


def test_decoding_writes_what_greedy_generate_writes_with_the_mask(pair):
    model, module, _ = pair
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(2, 24, (length,), generator=generator) for length in range(1, 25)]
    batch = FAMILY.collate([{"input_ids": text} for text in texts])
    with torch.no_grad():
        for network in (model, module):
            # Answers then depend on what was read, and some end early.
            network.decoder.final_layer_norm.weight.mul_(4)
            for block in network.decoder.block:
                block.layer[1].EncDecAttention.o.weight.mul_(4)
        theirs = model.generate(**batch, max_new_tokens=6, do_sample=False, num_beams=1, use_cache=False)[:, 1:]
        ours = FAMILY.decode(module, batch, 6)
    assert ours.tolist() == theirs.tolist()
    ends = {line.index(1) if 1 in line else 6 for line in ours.tolist()}
    assert len(ends) > 2, ends


def test_decoding_encodes_once(pair):
    _, module, _ = pair
    calls = []
    module.encoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        module.decoder.final_layer_norm.weight.zero_()
        # All logits are equal: the first token, padding, is written to the end.
        assert FAMILY.decode(module, padded(), 3).tolist() == [[0, 0, 0]] * 4
    assert len(calls) == 1


def test_the_memory_belongs_to_its_backbone(pair, tmp_path):
    _, module, source = pair
    other = load_module(FAMILY, source)
    with torch.no_grad():
        other.encoder.final_layer_norm.weight.mul_(3.0)
        batch = padded() | {"memory": WeakKeyDictionary()}
        first = FAMILY.features(module, batch)
        second = FAMILY.features(other, batch)
        assert torch.equal(FAMILY.features(module, batch), first)
    assert not torch.allclose(first, second)
    del other
    assert len(batch["memory"]) == 1


def test_the_start_token_is_the_configurations(tmp_path):
    make(tmp_path / "model", "t5")
    source = open_source(tmp_path / "model")
    module = load_module(FAMILY, source, {**source.config, "decoder_start_token_id": 3})
    batch = padded()
    with torch.no_grad():
        given = FAMILY.features(module, batch | {"decoder_input_ids": torch.full((4, 1), 3)})
        assert torch.equal(FAMILY.features(module, batch), given)


def test_an_embedding_is_found_under_all_its_names(tmp_path):
    make(tmp_path / "model", "t5")
    tensors = load_file(tmp_path / "model/model.safetensors")
    shared = tensors["shared.weight"]
    copies = {f"{part}.embed_tokens.weight": shared.clone() for part in ("encoder", "decoder")}
    config = open_source(tmp_path / "model").config
    plain = {name: tensor for name, tensor in tensors.items() if name != "shared.weight"}
    for held in (tensors | copies, plain | copies):
        save_file(held, tmp_path / "held.safetensors")
        module = load_module(FAMILY, open_source(tmp_path / "held.safetensors"), config)
        for tensor in (module.shared.weight, module.lm_head.weight, module.encoder.embed_tokens.weight):
            assert torch.equal(tensor, shared)
            assert tensor is module.shared.weight


def test_a_head_of_its_own_is_kept_and_listed_and_a_tied_one_is_not(tmp_path):
    for kind, own in (("t5", False), ("flan", True)):
        make(tmp_path / kind, kind)
        module = load_module(FAMILY, open_source(tmp_path / kind))
        assert (module.lm_head.weight is not module.shared.weight) is own
        assert ("lm_head" in [site.name for site in FAMILY.linears(module)]) is own


def test_parts_have_the_names_of_both_architectures(pair):
    _, module, source = pair
    gated = source.config["is_gated_act"]
    assert FAMILY.blocks(module) == [
        "encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1", "decoder.block.2",
    ]  # fmt: skip
    assert FAMILY.mlps(module)[0] == "encoder.block.0.layer.1.DenseReluDense"
    assert FAMILY.mlps(module)[4] == "decoder.block.2.layer.2.DenseReluDense"
    assert FAMILY.mlp_parts(module) == (("wi_1", "wo", "wi_0") if gated else ("wi", "wo", None))
    # encoder: q k v o and the feed-forward maps; decoder: twice q k v o and the feed-forward maps
    inside = [site.name for site in FAMILY.linears(module) if site.name != "lm_head"]
    assert len(inside) == 2 * (4 + 2 + gated) + 3 * (8 + 2 + gated)


def test_the_family_reads_and_writes_texts():
    assert isinstance(FAMILY, HasTextToText)
