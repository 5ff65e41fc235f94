"""Representation surgery: its worked numbers, what is learned, what is kept and what is refused."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_concrete import Net, pool_of
from torch import Tensor, nn
from toys import Kept, Sides, Toy

from fusionbench.errors import ConfigError, NotAdaptable, NotFinite
from fusionbench.methods._operated import operate
from fusionbench.methods.surgery import surgery
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights, TensorSource

FAMILY = Toy(Net)


class Points(Sides):
    """A task with so many points, read in order or for ever; its head doubles the features."""

    count: int = 24

    def size(self, split: str) -> int:
        return self.count

    def points(self) -> Tensor:
        return torch.randn(self.count, 3, generator=torch.Generator().manual_seed(self.seed))

    def batches(
        self, split: str, *, size: int, seed: int | None = None, start: int = 0, limit: int | None = None,
        labels: bool = True,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        assert not labels
        assert seed is None
        for part in self.points().split(size):
            yield {"points": part}

    def bind(self, backbone: Any) -> Any:
        return lambda batch: 2 * self.family.features(backbone, batch)


def tasks_of(pool: Any, family: Any = FAMILY) -> dict[str, Any]:
    return {name: Points(name, family, number) for number, name in enumerate(pool.experts)}


def module_of(source: Any) -> nn.Module:
    module = Net()
    module.load_state_dict(dict(LazyWeights(source)))
    return module


SETTINGS: dict[str, Any] = {"steps": 40, "batch": 8, "learning_rate": 0.05, "rank": 16}


def test_the_worked_example() -> None:
    """z = (1, 2), D = (1, 1), U = (.5, .25)ᵀ: (−.5, 1.25). With U = 0 nothing changes; a negative D·z is cut off."""
    z, down, up = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[0.5], [0.25]])
    assert operate(z, down, up).tolist() == [[-0.5, 1.25]]
    assert torch.equal(operate(z, down, torch.zeros(2, 1)), z)
    assert torch.equal(operate(z, -down, up), z)


def test_adapters_bring_features_nearer_to_each_experts_own(tmp_path: Path) -> None:
    pool, kept = pool_of(), Kept(tmp_path)
    tasks = tasks_of(pool)
    before = {name: source.fingerprint() for name, source in pool.experts.items()}
    fused = surgery(pool, tasks, kept.context(FAMILY), **SETTINGS)
    plain = surgery(pool, tasks, Kept(tmp_path / "none").context(FAMILY), **SETTINGS | {"learning_rate": 1e-12})
    for name, task in tasks.items():
        batch = {"points": task.points()}
        wanted = 2 * module_of(pool.experts[name])(task.points())
        far, near = ((model.for_task(task)(batch) - wanted).abs().mean().item() for model in (plain, fused))
        torch.testing.assert_close(plain.for_task(task)(batch), plain.backbone.for_task(task)(batch))
        assert near < 0.8 * far
    assert kept.used["adapted"] == {"split": "test", "tasks": ("e0", "e1"), "count": 40 * 8}
    assert before == {name: source.fingerprint() for name, source in pool.experts.items()}
    assert task.family is FAMILY


def test_what_is_learned_is_adam_on_the_mean_distance(tmp_path: Path) -> None:
    """One step on the whole split, against torch alone."""
    pool = pool_of(1)
    tasks = tasks_of(pool)
    settings = SETTINGS | {"steps": 2, "batch": 24, "inner": {"name": "task_arithmetic", "scale": 0.5}}
    fused = surgery(pool, tasks, Kept(tmp_path / "a").context(FAMILY), **settings)
    first = surgery(pool, tasks, Kept(tmp_path / "b").context(FAMILY), **settings | {"learning_rate": 1e-12})
    down, up = (tensor.clone().requires_grad_(True) for tensor in first.adapters["e0"])
    assert not bool(up.detach().abs().max() > 1e-10)
    assert float(down.detach().abs().max()) <= 4**-0.5
    points = tasks["e0"].points()
    merged, expert = first.backbone.module(points).detach(), module_of(pool.experts["e0"])(points).detach()
    adam = torch.optim.Adam([down, up], lr=0.05)
    for _ in range(2):
        adam.zero_grad()
        (merged - (merged @ down.T).relu() @ up.T - expert).abs().mean().backward()
        adam.step()
    torch.testing.assert_close(fused.adapters["e0"], (down.detach(), up.detach()), atol=1e-5, rtol=1e-5)


def test_of_maps_the_vector_at_each_place_is_operated_on(tmp_path: Path) -> None:
    """Two places of one example that see what two examples see: the same adapters, as long as all are seen at once."""

    class Maps(Toy):
        def features(self, backbone: Any, batch: Mapping[str, Any]) -> Tensor:
            found = super().features(backbone, batch)
            return found.view(len(found) // 2, 2, found.shape[-1])

    pool, settings = pool_of(1), SETTINGS | {"steps": 3, "batch": 24}
    vectors = surgery(pool, tasks_of(pool), Kept(tmp_path / "a").context(FAMILY), **settings)
    family = Maps(Net)
    tasks = tasks_of(pool, family)
    maps = surgery(pool, tasks, Kept(tmp_path / "b").context(family), **settings | {"batch": 12})
    for vector, of_map in zip(vectors.adapters["e0"], maps.adapters["e0"], strict=True):
        torch.testing.assert_close(of_map, vector, atol=1e-5, rtol=1e-5)
    assert maps.for_task(tasks["e0"])({"points": tasks["e0"].points()}).shape == (12, 2, 4)


def test_features_can_be_of_length_one(tmp_path: Path) -> None:
    pool = pool_of(1)
    tasks = tasks_of(pool)
    fused = surgery(pool, tasks, Kept(tmp_path).context(FAMILY), **SETTINGS | {"learning_rate": 1e-12}, normalize=True)
    found = fused.for_task(tasks["e0"])({"points": tasks["e0"].points()})
    torch.testing.assert_close(found.norm(dim=-1), torch.full((24,), 2.0))


def test_the_inner_method_may_adapt_too_and_both_are_reported(tmp_path: Path) -> None:
    pool, kept = pool_of(), Kept(tmp_path)

    class Both(Points):
        def batches(self, split: str, **how: Any) -> Iterator[dict[str, Any]]:
            adapting = how.get("seed") is not None or "limit" in how
            return Sides.batches(self, split, **how) if adapting else super().batches(split, **how)

    tasks = {name: Both(name, FAMILY, number) for number, name in enumerate(pool.experts)}
    inner = {"name": "adamerging", "steps": 3, "batch": 4, "batches": 1, "adapt_split": "validation"}
    surgery(pool, tasks, kept.context(FAMILY), inner=inner, **SETTINGS)
    assert kept.used["adapted"] == {"split": "test, validation", "tasks": ("e0", "e1"), "count": 40 * 8 + 3 * 4}
    assert (tmp_path / "coefficients" / "model.safetensors").is_file()


def test_a_stopped_run_goes_on_to_the_same_adapters(tmp_path: Path) -> None:
    pool = pool_of()

    class Stopped(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what == "surgery" and done == 25:
            raise Stopped

    whole = surgery(pool, tasks_of(pool), Kept(tmp_path / "a").context(FAMILY), **SETTINGS, checkpoint_every=10)
    context = Kept(tmp_path / "b").context(FAMILY, progress=stop)
    with pytest.raises(Stopped):
        surgery(pool, tasks_of(pool), context, **SETTINGS, checkpoint_every=10)
    again = surgery(pool, tasks_of(pool), Kept(tmp_path / "b").context(FAMILY), **SETTINGS, checkpoint_every=10)
    for name, pair in whole.adapters.items():
        assert all(torch.equal(one, other) for one, other in zip(pair, again.adapters[name], strict=True))


def test_a_task_without_an_adapter_gets_the_merged_model_as_it_is(tmp_path: Path) -> None:
    pool = pool_of()
    fused = surgery(pool, tasks_of(pool), Kept(tmp_path).context(FAMILY), **SETTINGS)
    other = Points("other", FAMILY, 9)
    batch = {"points": other.points()}
    assert torch.equal(fused.for_task(other)(batch), fused.backbone.for_task(other)(batch))


def test_all_of_it_is_saved_and_counted(tmp_path: Path) -> None:
    pool = pool_of()
    fused = surgery(pool, tasks_of(pool), Kept(tmp_path / "run").context(FAMILY), **SETTINGS)
    fused.save(tmp_path / "model")
    adapters = load_file(tmp_path / "model" / "adapters" / "model.safetensors")
    assert {name: tuple(t.shape) for name, t in adapters.items()} == {
        "e0.down": (16, 4), "e0.up": (4, 16), "e1.down": (16, 4), "e1.up": (4, 16)
    }  # fmt: skip
    assert torch.equal(adapters["e1.up"], fused.adapters["e1"][1])
    assert json.loads((tmp_path / "model" / "surgery.json").read_text())["tasks"] == ["e0", "e1"]
    backbone = LazyWeights(open_source(tmp_path / "model" / "backbone"))
    assert torch.equal(backbone["first.weight"], fused.backbone.weights["first.weight"])
    entries = sum(parameter.numel() for parameter in Net().parameters())
    assert fused.parameters == entries + 4 * 64
    assert fused.bytes == 4 * fused.parameters


def test_saved_adapters_are_used_without_a_look_at_data(tmp_path: Path) -> None:
    pool, kept = pool_of(), Kept(tmp_path / "b")
    first = surgery(pool, tasks_of(pool), Kept(tmp_path / "a").context(FAMILY), **SETTINGS)
    saved = str(tmp_path / "a" / "adapters")
    again = surgery(pool, tasks_of(pool), kept.context(FAMILY), **SETTINGS, adapters=saved)
    assert all(torch.equal(one, again.adapters[name][0]) for name, (one, _) in first.adapters.items())
    assert kept.used == {}
    with pytest.raises(ConfigError, match=r"e0 has rank 16, not 8; .*method\.adapters out"):
        surgery(pool, tasks_of(pool), kept.context(FAMILY), **SETTINGS | {"rank": 8}, adapters=saved)
    with pytest.raises(ConfigError, match="e2 has none"):
        surgery(pool_of(3), tasks_of(pool_of(3)), kept.context(FAMILY), **SETTINGS, adapters=saved)


def test_features_that_are_no_numbers_say_whose_they_are(tmp_path: Path) -> None:
    pool = pool_of()
    broken = {name: tensor.clone() for name, tensor in LazyWeights(pool.experts["e1"]).items()}
    broken["last.weight"].fill_(3e38)
    experts = {**pool.experts, "e1": TensorSource("e1", broken, {"model_type": "toy"})}
    inner = {"name": "task_arithmetic", "weights": [1.0, 0.0]}
    with pytest.raises(NotFinite, match="e1: features hold NaN or Inf, those of the expert e1"):
        surgery(replace(pool, experts=experts), tasks_of(pool), Kept(tmp_path).context(FAMILY), inner=inner, **SETTINGS)


def test_what_cannot_be_operated_on_is_refused(tmp_path: Path) -> None:
    pool = pool_of()
    context = Kept(tmp_path).context(FAMILY)
    with pytest.raises(ConfigError, match="none is known"):
        surgery(pool, {}, context)
    with pytest.raises(ConfigError, match="gives no merged weights"):
        surgery(pool, tasks_of(pool), context, inner={"name": "simple_ensemble"})

    class Writes(Toy):
        def decode(self, *_: Any) -> None:
            raise AssertionError

    with pytest.raises(NotAdaptable, match="writes text"):
        surgery(pool, tasks_of(pool, Writes(Net)), context)
    shared = pool_of()
    object.__setattr__(shared, "tasks", {"e0": "e0", "e1": "e0"})
    with pytest.raises(ConfigError, match="share the task e0"):
        surgery(shared, tasks_of(pool), context)
