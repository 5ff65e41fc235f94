"""Models whose files store a tied tensor twice: what works on modules gives what the same files without it give."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fusionbench
from fusionbench.families import family_for
from fusionbench.merge import Pool
from fusionbench.methods._deltas import MergedModule
from fusionbench.methods.greedy_soup import average_of
from fusionbench.mixing import FusedWeights
from fusionbench.weights.sources import open_source
from tiny_causal_lm import make_causal_lm
from tiny_t5 import make_t5

COPIES = {
    "llama": {"lm_head.weight": "model.embed_tokens.weight"},
    "t5": {f"{part}.weight": "shared.weight" for part in ("lm_head", "encoder.embed_tokens", "decoder.embed_tokens")},
}


@pytest.fixture(scope="module", params=COPIES)
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Models whose files hold tied tensors once, and the same models with them twice."""
    root = tmp_path_factory.mktemp(request.param)
    make = {"llama": make_causal_lm, "t5": make_t5}[request.param]
    found: dict[str, dict[str, str]] = {"once": {}, "twice": {}}
    for seed, name in enumerate(("base", "a", "b")):
        for form, held in found.items():
            place = root / form / name
            make(place, seed)
            held[name] = str(place)
            file = place / "model.safetensors"
            tensors = load_file(file)
            assert not set(COPIES[request.param]) & set(tensors)
            if form == "twice":
                tensors |= {other: tensors[kept].clone() for other, kept in COPIES[request.param].items()}
                save_file(tensors, file, metadata={"format": "pt"})
    return found


def pool_of(places: dict[str, str]) -> Pool:
    sources = {name: open_source(place) for name, place in places.items()}
    return Pool(sources.pop("base"), sources)


def state(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.module.state_dict())


@pytest.mark.parametrize("way", ["coefficients", "soup"])
def test_what_learns_on_a_module_takes_it_for_the_one_tensor_that_it_is(
    way: str, places: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    made: dict[str, FusedWeights] = {}
    columns = set()
    for form, models in places.items():
        pool = pool_of(models)
        merged = MergedModule(pool, family_for(pool.reference.config))
        columns.add(merged.names)
        merged.put(torch.full((2, len(merged.names)), 0.3))
        weights = merged.weights() if way == "coefficients" else average_of(merged, [0, 1])
        made[form] = FusedWeights(weights, family_for(pool.reference.config), pool.reference)
    assert len(columns) == 1
    assert "lm_head.weight" not in columns.pop()
    expected: Any = fusionbench.fuse("task_arithmetic", places["once"], scale=0.3 if way == "coefficients" else 0.5)
    for model in made.values():
        found = state(model)
        for name, tensor in state(expected).items():
            torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-5)
    made["twice"].save(tmp_path / "saved")
    kept = load_file(tmp_path / "saved" / "model.safetensors")
    names = [name for name in kept if name.endswith(("lm_head.weight", "embed_tokens.weight", "shared.weight"))]
    assert len(names) >= 2
    assert all(torch.equal(kept[name], kept[names[0]]) for name in names)


@pytest.mark.parametrize(
    ("method", "values"),
    [("smile", {"k": 4, "gate_k": 2}), ("bitdelta", {"expert": "a"}), ("wemoe", {"route": "token", "steps": 0})],
)
def test_what_rebuilds_leaves_a_tied_head_alone(
    method: str, values: dict[str, Any], places: dict[str, dict[str, str]]
) -> None:
    once, twice = (fusionbench.configure(method, **values)(places[form]) for form in ("once", "twice"))
    assert once.blueprint.sites == twice.blueprint.sites  # type: ignore[attr-defined]
    first, second = state(once), state(twice)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("norm", ["global", "tensor_mean"])
def test_a_tied_tensor_has_its_length_once_in_the_factors_of_masks(
    norm: str, places: dict[str, dict[str, str]]
) -> None:
    once, twice = (fusionbench.configure("emr", norm=norm)(places[form]) for form in ("once", "twice"))
    factors = [fused.masks.scales for fused in (once, twice)]  # type: ignore[attr-defined]
    assert factors[0] == pytest.approx(factors[1], rel=1e-9)
    for name, tensor in once.weights("a").items():  # type: ignore[attr-defined]
        assert torch.equal(twice.weights("a")[name], tensor)  # type: ignore[attr-defined]
