"""Recombination: layers move as one, none is lost or doubled, and the average stays."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from routing import BlockFamily, pool_of
from toys import Kept

from fusionbench.merge import Pool
from fusionbench.methods.recombination import group_of, places_of, recombination
from fusionbench.weights.tensors import TensorSource

FAMILY = BlockFamily()


def shuffle(tmp_path: Path, count: int = 3, **values: Any) -> tuple[Any, dict[str, dict[str, torch.Tensor]]]:
    pool = pool_of(count)
    fused = recombination(pool, {}, Kept(tmp_path).context(FAMILY), **values)
    return pool, {name: dict(model.weights) for name, model in fused.models.items()}


@pytest.mark.parametrize(
    ("name", "granularity", "group"),
    [
        ("model.layers.3.mlp.up.weight", "layer", "model.layers.3"),
        ("model.layers.3.mlp.up.weight", "module", "model.layers.3.mlp.up"),
        ("model.layers.3.mlp.up.weight", "tensor", "model.layers.3.mlp.up.weight"),
        ("model.norm.bias", "layer", "model.norm"),
    ],
)
def test_what_moves_as_one(name: str, granularity: Any, group: str) -> None:
    assert group_of(name, granularity) == group


@pytest.mark.parametrize("granularity", ["layer", "module", "tensor"])
def test_every_tensor_is_used_once_and_the_average_stays(tmp_path: Path, granularity: str) -> None:
    pool, made = shuffle(tmp_path, granularity=granularity)
    for name in pool.base.specs:
        before = torch.stack([source._tensors[name] for source in pool.experts.values()])
        after = torch.stack([tensors[name] for tensors in made.values()])
        assert torch.equal(before.sort(dim=0).values, after.sort(dim=0).values)
        torch.testing.assert_close(before.double().mean(dim=0), after.double().mean(dim=0), rtol=0, atol=1e-15)


def tied(seed: int) -> TensorSource:
    """A language model whose file stores its table of tokens twice, as older libraries wrote them."""
    drawn = torch.Generator().manual_seed(seed)
    table = torch.randn(6, 4, generator=drawn)
    tensors = {"model.embed_tokens.weight": table, "model.layers.0.mlp.weight": torch.randn(4, 4, generator=drawn)}
    return TensorSource(f"m{seed}", {**tensors, "lm_head.weight": table.clone()}, {"tie_word_embeddings": True})


@pytest.mark.parametrize("granularity", ["layer", "module", "tensor"])
def test_a_tied_tensor_that_is_stored_twice_moves_as_one(tmp_path: Path, granularity: Any) -> None:
    for seed in range(4):
        pool = Pool(tied(0), {name: tied(place) for place, name in enumerate("abc", start=1)})
        context = Kept(tmp_path).context(FAMILY)
        fused: Any = recombination(pool, {}, replace(context, seed=seed), granularity=granularity)
        for model in fused.models.values():
            assert torch.equal(model.weights["lm_head.weight"], model.weights["model.embed_tokens.weight"])


def origin(pool: Any, name: str, tensor: torch.Tensor) -> str:
    (found,) = [e for e, source in pool.experts.items() if torch.equal(source._tensors[name], tensor)]
    return found


def test_a_layers_tensors_come_from_one_model(tmp_path: Path) -> None:
    pool, made = shuffle(tmp_path, count=4)
    for tensors in made.values():
        for block in ("blocks.0.", "blocks.1."):
            names = [n for n in tensors if n.startswith(block) and ".mlp." in n]
            assert len({origin(pool, name, tensors[name]) for name in names}) == 1
    mixed = {tuple(origin(pool, f"blocks.{b}.mlp.up.weight", t[f"blocks.{b}.mlp.up.weight"]) for b in (0, 1))
             for t in made.values()}  # fmt: skip
    assert any(first != second for first, second in mixed)


def test_a_single_model_stays_as_it_is(tmp_path: Path) -> None:
    pool, made = shuffle(tmp_path, count=1)
    assert all(torch.equal(tensor, pool.experts["e0"]._tensors[name]) for name, tensor in made["e0"].items())


def test_permutations_follow_seed_and_name_alone() -> None:
    assert places_of("a", 5, 0) == places_of("a", 5, 0)
    drawn = {tuple(places_of(name, 5, seed)) for name in ("a", "b") for seed in (0, 1)}
    assert len(drawn) > 1
    assert all(sorted(places) == list(range(5)) for places in drawn)


def test_the_models_keep_their_names_and_are_saved_apart(tmp_path: Path) -> None:
    from fusionbench.weights.sources import open_source

    pool = pool_of(2)
    before = [source.fingerprint() for source in pool.experts.values()]
    fused = recombination(pool, {}, Kept(tmp_path).context(FAMILY))
    fused.save(tmp_path / "out")
    for name, model in fused.models.items():
        saved = open_source(tmp_path / "out" / name)
        assert all(saved.read(n) == memoryview(t.numpy()).cast("B") for n, t in model.weights.items())
    assert [source.fingerprint() for source in pool.experts.values()] == before
    assert fused.parameters == 2 * sum(spec.size for spec in pool.base.specs.values())
