"""Fisher merging: worked numbers, the estimators against closed forms and autograd, storing, the command line."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classifiers import Kept, Points, Softmax, Toy, double, golden_inputs, golden_result
from independent_statistics import empirical_fisher, exact_fisher, mergelm_fisher
from independent_statistics import fisher as reference
from safetensors.torch import load_file
from torch import Tensor

from fusing import fuse
from fusionbench.config import MethodConfig
from fusionbench.errors import ConfigError, NotAdaptable
from fusionbench.families import family_named, load_module
from fusionbench.merge import Pool
from fusionbench.methods import _fisher
from fusionbench.methods._fisher import Estimator, collect_fisher
from fusionbench.methods._statistics import collect_all
from fusionbench.methods.fisher import fisher
from fusionbench.registry import methods
from fusionbench.tasks import from_arrays, open_vocabulary_task
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import TensorSource
from tiny_clip import cache, clip_folder, noise

__all__ = ["cache", "clip_folder"]

FIRST, SECOND = torch.tensor([0.0, 0.0]), torch.tensor([4.0, 4.0])


def points(count: int = 7, classes: int = 4, **columns: Tensor) -> Points:
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(count, 3, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    return Points("own", Toy(Softmax), {"points": drawn, "labels": labels, **columns})


def softmax_model(seed: int = 0) -> Softmax:
    torch.manual_seed(seed)
    return Softmax()


def collected(folder: Path, estimator: Estimator, batch: int = 3, task: Points | None = None) -> Tensor:
    task = task or points()
    context = Kept(folder).context(task.family)
    return collect_fisher(task, softmax_model(), context, estimator=estimator, batch=batch, examples=7)["map.weight"]


def test_the_worked_example() -> None:
    """F = (1, 3) and (3, 1), θ = 0 and 4: 12/4 and 4/4."""
    stats = [torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0])]
    for normalize in (True, False):
        merged = fisher([FIRST, SECOND], stats=stats, normalize=normalize)
        torch.testing.assert_close(merged, torch.tensor([3.0, 1.0]))


def test_small_information_is_not_swamped_but_in_fusion_bench() -> None:
    """F of 1e-8: 3 and 1 as above; with 1e-6 added 2.02 and 1.98, nearly the average."""
    stats = [torch.tensor([1e-8, 3e-8]), torch.tensor([3e-8, 1e-8])]
    torch.testing.assert_close(fisher([FIRST, SECOND], stats=stats), torch.tensor([3.0, 1.0]))
    theirs = fisher([FIRST, SECOND], stats=stats, floor=0.0, added=1e-6, normalize=False)
    expected = [4 * 1.03 / 2.04, 4 * 1.01 / 2.04]
    np.testing.assert_allclose(theirs, expected, rtol=1e-6)
    assert methods["fisher"].compat is not None
    assert methods["fisher"].compat["fusion_bench"] == {"estimator": "mergelm", "floor": 0.0, "added": 1e-6}


def test_what_no_prediction_hangs_on_is_averaged() -> None:
    stats = [torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0])]
    merged = fisher([FIRST, SECOND], stats=stats, weights=[1.0, 3.0])
    np.testing.assert_allclose(merged[1], 3.0, rtol=1e-6)
    assert merged[0] < 1e-4
    nothing = fisher([FIRST, SECOND], stats=[torch.zeros(2)] * 2, weights=[1.0, 3.0])
    np.testing.assert_allclose(nothing, [3.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize("weights", [[-1.0, 1.0], [0.0, 0.0]])
def test_weights_that_make_no_average_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="at least 0"):
        fisher([FIRST, SECOND], weights=weights)


@pytest.mark.parametrize(
    "values", [{}, {"normalize": False}, {"floor": 0.5}, {"added": 0.1, "floor": 0.0}, {"weights": [0.2, 0.8]}]
)
def test_a_whole_model_equals_the_independent_reference(values: dict[str, Any]) -> None:
    """Lengths and means are of the whole model, so its tensors joined to one give the same."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"a.weight": (4, 3), "b": (5,)}
    draw = {n: [torch.randn(s, generator=generator) for _ in range(4)] for n, s in shapes.items()}
    experts = {f"e{i}": {n: tensors[i] for n, tensors in draw.items()} for i in range(2)}
    statistics = {f"e{i}": {n: tensors[2 + i].square() for n, tensors in draw.items()} for i in range(2)}
    merged = fuse("fisher", None, experts, values, statistics=statistics)

    def joined(states: dict[str, dict[str, Tensor]]) -> list[Any]:
        return [np.concatenate([double(t).ravel() for t in state.values()]) for state in states.values()]

    options = {"weights": [1.0, 1.0], "floor": 1e-6, **values}
    expected = reference(joined(experts), joined(statistics), **options)
    np.testing.assert_allclose(joined({"merged": merged})[0], expected, rtol=3e-6, atol=1e-7)


def test_the_logistic_example_is_one_and_mergelm_makes_it_zero(tmp_path: Path) -> None:
    """Logits (w·x, 0) at w = 0, x = 2: p·(1 − p)·x² = 1; √p·log p of both classes cancel."""

    class Logistic(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(1))

        def forward(self, given: Tensor) -> Tensor:
            return torch.cat([self.w * given, 0 * given], dim=1)

    task = Points("one", Toy(Logistic), {"points": torch.tensor([[2.0]])})
    context = Kept(tmp_path).context(task.family)
    estimators: dict[Estimator, float] = {"exact": 1.0, "sampled": 1.0, "mergelm": 0.0}
    for estimator, value in estimators.items():
        found = collect_fisher(task, Logistic(), context, estimator=estimator, examples=1)["w"]
        assert found.item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_exact_and_empirical_equal_their_closed_forms_in_batches_of_any_size(
    tmp_path: Path, batch: int, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fisher, "LARGE", 1 << 20 if together else 0)
    weight, inputs = double(softmax_model().map.weight), double(points().columns["points"])
    labels = points().columns["labels"].numpy()
    np.testing.assert_allclose(collected(tmp_path, "exact", batch), exact_fisher(weight, inputs), rtol=1e-5)
    np.testing.assert_allclose(
        collected(tmp_path, "empirical", batch), empirical_fisher(weight, inputs, labels), rtol=1e-5
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_mergelm_equals_its_restated_formula_and_depends_on_the_batch(tmp_path: Path, batch: int) -> None:
    weight, inputs = double(softmax_model().map.weight), double(points().columns["points"])
    expected = mergelm_fisher(weight, inputs, batch)
    np.testing.assert_allclose(collected(tmp_path, "mergelm", batch), expected, rtol=1e-4, atol=1e-7)
    assert not np.allclose(expected, mergelm_fisher(weight, inputs, 4 - batch))


def test_sampled_draws_the_same_in_batches_of_any_size_and_is_right_on_average(tmp_path: Path) -> None:
    first = collected(tmp_path, "sampled", 1)
    torch.testing.assert_close(collected(tmp_path, "sampled", 4), first, rtol=1e-5, atol=1e-8)
    many = points(count=4000)
    many.columns["points"] = points(count=1).columns["points"].expand(4000, 3)
    context = Kept(tmp_path).context(many.family)
    drawn = collect_fisher(many, softmax_model(), context, estimator="sampled", examples=4000, batch=1000)
    expected = exact_fisher(double(softmax_model().map.weight), double(many.columns["points"][:1]))
    np.testing.assert_allclose(drawn["map.weight"], expected, rtol=0.1)


def test_only_empirical_sees_labels(tmp_path: Path) -> None:
    estimators: tuple[Estimator, ...] = ("exact", "sampled", "mergelm", "empirical")
    asked = []
    for estimator in estimators:
        task = points()
        collected(tmp_path, estimator, task=task)
        asked.append(task.asked)
    assert asked == [[False], [False], [False], [True]]


@pytest.mark.parametrize(("shuffle", "seed"), [(True, 5), (False, None)])
def test_examples_are_in_an_order_of_the_seed_or_the_datas_own(tmp_path: Path, shuffle: bool, seed: int | None) -> None:
    seen: list[int | None] = []

    class Ordered(Points):
        def batches(self, split: str, *, seed: int | None = None, **how: Any) -> Iterator[dict[str, Any]]:
            seen.append(seed)
            return super().batches(split, seed=seed, **how)

    task = Ordered("one", Toy(Softmax), points().columns)
    context = Kept(tmp_path).context(task.family, seed=5)
    collect_fisher(task, softmax_model(), context, examples=4, batch=2, shuffle=shuffle)
    assert seen == [seed]


def test_a_head_without_a_distribution_is_refused_where_one_is_needed(tmp_path: Path) -> None:
    task = Points("depth", Toy(Softmax), {"points": torch.zeros(2, 5, 3)})
    with pytest.raises(NotAdaptable, match="empirical"):
        collect_fisher(task, softmax_model(), Kept(tmp_path).context(task.family))


def test_what_cannot_be_differentiated_together_is_differentiated_one_by_one(tmp_path: Path) -> None:
    class Looks(Softmax):
        def forward(self, given: Tensor) -> Tensor:
            return self.map(given) if float(given.sum()) < math.inf else given

    task = points()
    context = Kept(tmp_path).context(task.family)
    torch.manual_seed(0)
    found = collect_fisher(task, Looks(), context, examples=7, batch=3)["map.weight"]
    torch.testing.assert_close(found, collected(tmp_path, "exact"))


def test_on_clip_every_tensor_has_the_autograd_sum_over_classes_and_examples(
    clip_folder: Path, cache: Path, tmp_path: Path
) -> None:
    family, base = family_named("clip"), open_source(clip_folder)
    data = {"train": from_arrays(noise(3), np.array([0, 1, 2]))}
    task = open_vocabulary_task(
        "pets", data, class_names=["cat", "dog", "bird"], templates=["a photo of {}"], family=family, base=base
    )
    module = load_module(family, base)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith("vision_model."))
    found = collect_fisher(task, module, Kept(tmp_path).context(family), examples=3, batch=2)
    assert set(found) == {n for n, p in module.named_parameters() if p.requires_grad}
    expected = {name: torch.zeros_like(tensor) for name, tensor in found.items()}
    for image in task.batches("train", size=1, labels=False):
        for index in range(3):
            module.zero_grad()
            logs = task.bind(module)(image).log_softmax(-1)[0]
            logs[index].backward()
            for name in expected:
                gradient = module.get_parameter(name).grad
                assert gradient is not None
                expected[name] += logs[index].detach().exp() * gradient**2 / 3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=1e-4 * float(value.max()) + 1e-12)


def test_statistics_are_kept_and_not_collected_twice(tmp_path: Path) -> None:
    pool, task = stored_pool(), points()
    kept = Kept(tmp_path)
    values = {"estimator": "exact", "examples": 7, "batch": 3, "split": "train", "floor": 1e-6, "statistics": None}
    for _ in range(2):
        collect_all(pool, {"own": task}, kept.context(task.family), collect_fisher, method="fisher", values=values)
    assert len(task.asked) == 2
    assert kept.used["adapted"] == {"split": "train", "tasks": ("own",), "count": 14}
    for number in range(2):
        found = load_file(tmp_path / "statistics" / f"e{number}" / "model.safetensors")
        expected = exact_fisher(double(softmax_model(number).map.weight), double(task.columns["points"]))
        np.testing.assert_allclose(found["map.weight"], expected, rtol=1e-5)


def stored_pool() -> Pool:
    experts = {f"e{i}": TensorSource(f"e{i}", softmax_model(i).state_dict(), {"model_type": "toy"}) for i in range(2)}
    return Pool(None, experts, tasks=dict.fromkeys(experts, "own"))


def test_an_expert_without_a_task_is_refused_before_anything_runs(tmp_path: Path) -> None:
    task = points()
    with pytest.raises(ConfigError, match=r"experts\.e0\.task"):
        collect_all(
            stored_pool(), {"other": task}, Kept(tmp_path).context(task.family), collect_fisher, method="fisher",
            values={"examples": 7, "split": "train"},
        )  # fmt: skip
    assert task.asked == []


@pytest.mark.parametrize("normalize", [True, False])
def test_fusion_bench_computes_the_same_from_the_same_information(normalize: bool) -> None:
    models, statistics = golden_inputs("fisher")
    values = MethodConfig.read({"name": "fisher", "compat": "fusion_bench", "normalize": normalize}).params
    merged = fuse("fisher", None, models, values, statistics=statistics)
    for name, expected in golden_result("fisher", normalize).items():
        torch.testing.assert_close(merged[name], expected, rtol=1e-5, atol=1e-6)
