"""Recipes with slices: which layer of which model ends up where, with which values, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from checkpoints import read_model, save_model
from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, IncompatibleModels
from fusionbench.merge import merge, open_pool, plan_of_recipe
from fusionbench.run.setting import resolve
from fusionbench.weights.plan import Plan

STACK = "model.layers."


def llama(first: float, layers: int, vocabulary: int = 3, head: bool = True) -> dict[str, Tensor]:
    """A model in the shape of a Llama: layer n is full of first + n, what is outside of first + 0.5."""
    outside = first + 0.5
    model = {"model.embed_tokens.weight": torch.full((vocabulary, 2), outside)}
    for n in range(layers):
        model[f"{STACK}{n}.mlp.weight"] = torch.full((2, 2), float(first + n))
        model[f"{STACK}{n}.norm.weight"] = torch.full((2,), float(first + n))
    model["model.norm.weight"] = torch.full((2,), outside)
    return {**model, **({"lm_head.weight": torch.full((vocabulary, 2), outside)} if head else {})}


def write(name: str, tensors: Mapping[str, Tensor], layers: int, **config: Any) -> None:
    save_model(Path(name), tensors, {"model_type": "llama", "num_hidden_layers": layers, **config})


@pytest.fixture(autouse=True)
def _models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders a (three layers, 100 …), b (five, 200 …) and base (three, 0 …)."""
    monkeypatch.chdir(tmp_path)
    write("base", llama(0, 3), 3)
    write("a", llama(100, 3), 3, layer_types=["full", "sliding", "full"])
    write("b", llama(200, 5), 5, layer_types=["b0", "b1", "b2", "b3", "b4"])


def source(expert: str, first: int, stop: int, **parameters: Any) -> dict[str, Any]:
    return {"expert": expert, "layers": [first, stop], "parameters": parameters}


def recipe(*slices: Any, method: Any = "passthrough", base: str | None = None, experts: str = "ab") -> Recipe:
    parts = [part if isinstance(part, dict) else {"sources": part} for part in slices]
    document = {"base": base, "experts": {e: e for e in experts}, "method": method, "slices": parts}
    return Recipe.read({**document, "runtime": {"threads": 1}})


def merged(*slices: Any, **given: Any) -> dict[str, float]:
    """The first entry of every tensor, without the layers' common prefix."""
    merge(recipe(*slices, **given), Path("out"))
    found = read_model(Path("out"))
    assert all(bool((tensor == tensor.flatten()[0]).all()) for tensor in found.values())
    return {name.removeprefix(STACK): float(tensor.flatten()[0]) for name, tensor in found.items()}


def planned(*slices: Any, **given: Any) -> Plan:
    found = recipe(*slices, **given)
    return plan_of_recipe(found, open_pool(found))


def refusal(*slices: Any, **given: Any) -> str:
    with pytest.raises((ConfigError, IncompatibleModels)) as caught:
        planned(*slices, **given)
    return str(caught.value)


def mlps(found: Mapping[str, float]) -> list[float]:
    """The layers' matrices in the order of the layers."""
    return [found[f"{n}.mlp.weight"] for n in range(sum(name.endswith("mlp.weight") for name in found))]


def test_layers_are_numbered_anew_and_what_is_outside_comes_from_the_first_and_the_last_slice() -> None:
    found = merged([source("a", 1, 3)], [source("b", 3, 5)], [source("a", 0, 1)], [source("b", 0, 1)])
    assert mlps(found) == [101, 102, 203, 204, 100, 200]
    assert [found[f"{n}.norm.weight"] for n in range(6)] == [101, 102, 203, 204, 100, 200]
    assert found["model.embed_tokens.weight"] == 100.5
    assert (found["model.norm.weight"], found["lm_head.weight"]) == (200.5, 200.5)
    assert len(found) == 15


def test_the_configuration_says_the_new_layers() -> None:
    merged([source("a", 0, 2)], [source("b", 3, 5)])
    config = json.loads(Path("out/config.json").read_text())
    assert config["num_hidden_layers"] == 4
    assert config["layer_types"] == ["full", "sliding", "b3", "b4"]


@pytest.mark.parametrize(
    ("stack", "count"),
    [("transformer.h.", "n_layer"), ("bert.encoder.layer.", "num_hidden_layers"), ("blocks.", "n_layers")],
)
def test_other_architectures_words_for_a_layer_are_known(stack: str, count: str) -> None:
    tensors = {"wte.weight": torch.zeros(3, 2), **{f"{stack}{n}.w": torch.full((2,), float(n)) for n in range(3)}}
    save_model(Path("x"), tensors, {"model_type": "toy", count: 3})
    merge(recipe([source("x", 2, 3)], [source("x", 0, 2)], experts="x"), Path("out"))
    assert [float(read_model(Path("out"))[f"{stack}{n}.w"][0]) for n in range(3)] == [2, 0, 1]
    merge(recipe([source("x", 2, 3)], [source("x", 2, 3)], experts="x"), Path("two"))
    assert json.loads(Path("two/config.json").read_text())[count] == 2


def test_a_gradient_runs_over_one_slice_and_has_its_last_value_in_a_slice_of_one_layer() -> None:
    scale = [{"value": [0, 1]}]
    found = merged([source("a", 0, 3, scale=scale)], [source("b", 1, 2, scale=scale)])
    assert mlps(found) == [0, 50.5, 102, 201]
    # the first value for all that is outside the layers
    assert (found["model.embed_tokens.weight"], found["model.norm.weight"], found["lm_head.weight"]) == (0, 0, 0)


def test_an_experts_own_parameter_is_filtered_by_its_own_tensors_name() -> None:
    scale = [{"filter": "layers.3.mlp", "value": 0.5}, {"value": 1}]
    found = merged([source("a", 0, 1)], [source("b", 3, 5, scale=scale)])
    assert mlps(found) == [100, 101.5, 204]


def test_a_shared_parameter_is_filtered_by_the_outputs_name() -> None:
    method = {"name": "task_arithmetic", "scale": [{"filter": "layers.3.", "value": 2}, {"value": 1}]}
    parts = [[source("base", 0, 3), source("b", 2, 5)], [source("base", 0, 1), source("a", 0, 1)]]
    assert mlps(merged(*parts, method=method, base="base")) == [202, 203, 204, 200]


def test_a_sources_value_wins_over_its_slices_and_that_over_the_methods() -> None:
    method = {"name": "weighted_average", "normalize": False, "weights": {"a": 3, "b": 5}}
    found = merged(
        {"sources": [source("a", 0, 1, weights=1), source("b", 0, 1)], "parameters": {"weights": 2}},
        {"sources": [source("a", 0, 1), source("b", 0, 1)]},
        method=method,
    )
    assert mlps(found) == [100 + 2 * 200, 3 * 100 + 5 * 200]


def test_the_norm_and_the_head_are_made_of_all_sources_of_the_last_slice() -> None:
    """mergekit takes as many as the first slice has."""
    found = merged([source("a", 0, 1)], [source("a", 1, 2), source("b", 1, 2)], method="simple_average")
    assert mlps(found) == [100, 151]
    assert (found["model.embed_tokens.weight"], found["lm_head.weight"], found["model.norm.weight"]) == (
        100.5,
        150.5,
        150.5,
    )


def test_each_slice_may_have_another_base_and_a_base_alone_is_copied() -> None:
    found = merged(
        {"sources": [source("a", 0, 1), source("b", 0, 1)], "base": "b"},
        [source("base", 0, 1), source("a", 2, 3)],
        [source("base", 1, 2)],
        method={"name": "task_arithmetic", "scale": 0.5},
        base="base",
    )
    assert mlps(found) == [150, 51, 1]


def test_a_method_that_looks_at_the_model_first_can_merge_slices_of_different_experts() -> None:
    method = {"name": "ties", "compat": "mergekit", "density": 1.0}
    found = merged(
        [source("base", 0, 1), source("a", 0, 1), source("b", 0, 1)], [source("base", 0, 1), source("b", 1, 2)],
        method=method, base="base",
    )  # fmt: skip
    assert mlps(found) == [150, 201]


def test_a_tied_head_comes_from_the_first_slice_with_the_embedding() -> None:
    for name, first in (("s", 100), ("t", 200)):
        write(name, llama(first, 2), 2, tie_word_embeddings=True)
    found = merged([source("s", 0, 1)], [source("t", 0, 1)], experts="st")
    assert (found["model.embed_tokens.weight"], found["lm_head.weight"], found["model.norm.weight"]) == (
        100.5,
        100.5,
        200.5,
    )


def test_a_pass_through_keeps_every_bit_and_takes_the_references_kind_of_number() -> None:
    bits = torch.arange(4, dtype=torch.int16).view(torch.bfloat16).view(2, 2)
    for name in "pq":
        save_model(Path(name), {"layers.0.w": bits}, {"model_type": "toy", "num_hidden_layers": 1})
    save_model(Path("wide"), {"layers.0.w": torch.ones(2, 2)}, {"model_type": "toy", "num_hidden_layers": 1})
    merge(recipe([source("p", 0, 1)], [source("wide", 0, 1)], experts=["p", "wide"]), Path("out"))
    found = read_model(Path("out"))
    assert found["layers.0.w"].view(torch.int16).tolist() == [[0, 1], [2, 3]]
    assert found["layers.1.w"].dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        ([[source("a", 1, 4)]], "slices.0: a has no layers [1, 4]; it has 3, so [0, 3] is all of them."),
        ([[source("a", 0, 1), source("b", 0, 2)]], "a slice need the same number of layers; here a 1, b 2."),
        ([[source("a", 0, 1), source("a", 1, 2)]], "a is there twice; a slice takes each model once."),
        ([[source("a", 1, 1)]], "a [1, 1] has no layer"),
        ([[source("a", -1, 1)]], "slices.0.sources.0.layers.0: expected at least 0; got -1"),
        ([[source("c", 0, 1)]], "slices.0.sources.0.expert: there is no c; there are: a, b."),
        ([[source("base", 0, 1)]], "slices.0.sources.0.expert: there is no base; there are: a, b."),
        ([[source("a", 0, 1, skale=1)]], "parameters.skale is not a key of passthrough; did you mean scale"),
        ([[source("a", 0, 1, scale="x")]], "slices.0.sources.0.parameters.scale: expected a number, got 'x'"),
        ([{"sources": [source("a", 0, 1)], "base": "b"}], "its base b is none of its sources a."),
        ([], "slices"),
    ],
)  # fmt: skip
def test_slices_that_cannot_be_are_refused(slices: list[Any], said: str) -> None:
    assert said in refusal(*slices)


def test_what_holds_for_the_whole_model_is_refused_in_a_slice() -> None:
    method = {"name": "ties", "density": 0.5}
    part = [source("base", 0, 1), source("a", 0, 1)]
    assert "slices.0.parameters.combine: it holds for the whole model; set method.combine." in refusal(
        {"sources": part, "parameters": {"combine": "sum"}}, method=method, base="base"
    )
    part[1]["parameters"] = {"scale": 2}
    assert "scale: it is one number for all experts; move it to the slice's parameters." in refusal(
        part, method=method, base="base"
    )


def test_a_slice_without_the_base_that_the_method_needs_is_refused() -> None:
    said = refusal([source("a", 0, 1)], method="task_arithmetic", base="base")
    assert said.startswith("slices.0 lacks the base, which the method needs")


def test_several_models_cannot_be_passed_through() -> None:
    with pytest.raises(ConfigError, match="passthrough takes exactly one expert for each layer, got 2"):
        merged([source("a", 0, 1), source("b", 0, 1)])
    assert not Path("out").exists()


def test_models_without_one_stack_of_layers_are_refused() -> None:
    save_model(Path("e"), {"encoder.block.0.w": torch.ones(2), "decoder.block.0.w": torch.ones(2)}, {})
    save_model(Path("f"), {"w": torch.ones(2)}, {})
    assert "e has 2: decoder.block., encoder.block." in refusal([source("e", 0, 1)], experts="e")
    assert "f has none" in refusal([source("f", 0, 1)], experts="f")


def test_layers_that_do_not_fit_together_are_named() -> None:
    other = llama(300, 4)
    other[f"{STACK}3.mlp.weight"] = torch.ones(2, 3)
    del other[f"{STACK}3.norm.weight"]
    write("c", other, 4)
    said = refusal([source("a", 0, 1), source("c", 3, 4)], method="simple_average", experts="ac")
    assert said.split("\n")[1:] == [
        f"  c: {STACK}3.mlp.weight is F32 2×3, {STACK}0.mlp.weight of a F32 2×2",
        f"  c: has no {STACK}3.norm.weight",
    ]


def test_vocabularies_of_different_sizes_are_named_with_the_fix() -> None:
    write("v", llama(300, 3, vocabulary=4), 3)
    said = refusal([source("a", 0, 1)], [source("v", 0, 1)], experts=["a", "v"])
    assert "The vocabulary sizes differ: a 3; v 4." in said
    assert "vocabulary=base or vocabulary=union" in said


def test_slices_do_not_go_with_a_suite() -> None:
    with pytest.raises(ConfigError, match="slices make a model of other layers"):
        Recipe.read({"suite": "mini/clip", "method": "passthrough", "slices": [{"sources": [source("a", 0, 1)]}]})


def test_a_run_refuses_slices_rather_than_leave_them_out() -> None:
    with pytest.raises(ConfigError, match="stack them with: fusionbench merge"):
        resolve(recipe([source("a", 0, 1)]))


def test_a_recipe_with_slices_reads_back_as_itself_and_one_without_does_not_mention_them() -> None:
    found = recipe([source("a", 0, 1, scale="0.5")])
    assert Recipe.read(found.dump()) == found
    assert found.dump()["slices"][0]["sources"][0]["parameters"] == {"scale": 0.5}
    assert "slices" not in Recipe.read({"experts": {"a": "a"}, "method": "passthrough"}).dump()
