"""A Mixtral whose experts are maps of their own, against transformers' stacked ones and by hand."""

from pathlib import Path

import pytest
import torch
from test_causal_lm import make
from torch import nn
from transformers import AutoModelForCausalLM

from fusionbench.errors import MissingPart
from fusionbench.families import family_for, load_module
from fusionbench.families.separate_experts import Expert, SeparateExperts
from fusionbench.mixing import FusedModule
from fusionbench.weights.sources import open_source

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 3], [10, 11, 3, 4, 20, 22]])


def constant(value: float) -> Expert:
    """An expert that answers value · x for x ≥ 0: w1 = 1, act the identity, w3 picks x up, all of width 1."""
    expert = Expert(1, 1, nn.Identity())
    for parameter, number in ((expert.w1, 1.0), (expert.w2, value), (expert.w3, 1.0)):
        nn.init.constant_(parameter.weight, number)
    return expert


def test_a_tokens_answer_is_the_weighted_sum_over_its_experts() -> None:
    """By hand: experts answer c·x², c = 2, 3, 5; x = 1 of experts 0 and 2 by 1/4 and 3/4, x = 2 of 1 alone."""
    experts = SeparateExperts([constant(2), constant(3), constant(5)])
    with torch.no_grad():
        found = experts(
            torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 2], [1, 0]]), torch.tensor([[0.25, 0.75], [1, 0]])
        )
    assert found.tolist() == [[0.25 * 2 + 0.75 * 5], [3 * 4]]


def test_an_expert_that_nobody_chose_does_not_run() -> None:
    experts = SeparateExperts([constant(2), constant(float("nan"))])
    with torch.no_grad():
        assert experts(torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 1)).tolist() == [[2.0]] * 3


@pytest.mark.parametrize("experts", [2, 5])
def test_logits_gradients_and_generation_are_those_of_transformers(experts: int, tmp_path: Path) -> None:
    theirs = make(tmp_path / "m", "mixtral", num_local_experts=experts, tie_word_embeddings=True)
    source = open_source(tmp_path / "m")
    ours = load_module(family_for(source.config), source)
    found, expected = ours(TOKENS).logits, theirs(TOKENS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for model, logits in ((ours, found), (theirs, expected)):
        model.zero_grad()
        nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS.flatten()).backward()
    gates = [model.model.layers[0].mlp.gate.weight.grad for model in (ours, theirs)]
    torch.testing.assert_close(*gates, rtol=1e-3, atol=1e-4)
    stacked = theirs.model.layers[1].mlp.experts.down_proj.grad
    for number, expert in enumerate(ours.model.layers[1].mlp.experts):
        torch.testing.assert_close(expert.w2.weight.grad, stacked[number], rtol=1e-3, atol=1e-4)
    asked = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS), "max_new_tokens": 6, "do_sample": False}
    written = [model.generate(**asked, use_cache=cache).tolist() for model in (ours, theirs) for cache in (True, False)]
    assert written[1:] == written[:-1]


def test_it_is_no_model_of_single_mlps_and_its_routers_are_named(tmp_path: Path) -> None:
    make(tmp_path / "m", "mixtral", num_local_experts=2)
    source = open_source(tmp_path / "m")
    family = family_for(source.config)
    module = load_module(family, source)
    with pytest.raises(MissingPart, match="mixture of experts, which this model is already"):
        family.mlps(module)
    assert family.routers(module) == ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]
    names = [site.name for site in family.linears(module)]
    # q k v o and three maps of each of two experts, of two blocks, and the head
    assert len(names) == 2 * (4 + 2 * 3) + 1
    make(tmp_path / "dense", "llama")
    assert family.routers(load_module(family, open_source(tmp_path / "dense"))) == []


def test_a_live_module_is_saved_as_transformers_saves_it(tmp_path: Path) -> None:
    theirs = make(tmp_path / "m", "mixtral", num_local_experts=2)
    source = open_source(tmp_path / "m")
    family = family_for(source.config)
    FusedModule(load_module(family, source), family, source).save(tmp_path / "again")
    assert {
        n: (s.shape, bytes(open_source(tmp_path / "again").read(n)))
        for n, s in open_source(tmp_path / "again").specs.items()
    } == {n: (s.shape, bytes(source.read(n))) for n, s in source.specs.items()}
    again, found = AutoModelForCausalLM.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert torch.equal(again(TOKENS).logits, theirs(TOKENS).logits)
