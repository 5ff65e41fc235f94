"""λ search: what is tried, what is kept, one factor a model, a task or an expert, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_concrete import Net, pool_of, tasks_of
from test_greedy_soup import Scalar
from toys import Kept, Sides, Toy

from fusionbench.config import MethodConfig
from fusionbench.errors import ConfigError
from fusionbench.merge import Pool
from fusionbench.methods.concrete import concrete_task_arithmetic
from fusionbench.methods.scale_search import scale_search
from fusionbench.tasks import Metric
from fusionbench.weights.tensors import TensorSource

FAMILY = Toy(Scalar)
TASKS: dict[str, Any] = {name: Sides(name, FAMILY, 0) for name in ("near", "far")}


def pool(*values: float) -> Pool:
    def source(name: str, value: float) -> TensorSource:
        return TensorSource(name, {"w": torch.tensor(value)}, {"model_type": "toy"})

    return Pool(source("base", 0.0), {f"m{v}": source(f"m{v}", v) for v in values})


def values(fused: Any) -> dict[str, float]:
    """The first task wants the weight .5, the second 1.6."""
    w = float(fused.weights["w"])
    return {"near": -abs(w - 0.5), "far": -((w - 1.6) ** 2)}


def test_the_best_factor_of_the_grid_is_kept_and_reported(tmp_path: Path) -> None:
    """Task vectors 1 and 1.001: weights .4002, .8004, 1.6008.

    Their values are −.0998 and −1.4395, −.3004 and −.6394, −1.1008 and 0; λ = .4 is kept.
    """
    kept = Kept(tmp_path)
    fused = scale_search(pool(1.0, 1.001), TASKS, kept.context(FAMILY, values), scales=[0.2, 0.4, 0.8])
    assert float(fused.weights["w"]) == pytest.approx(0.4 * 2.001)
    assert kept.used == {"selected": {"split": "validation", "tasks": ("near", "far")}}
    assert any("scale=0.4 was selected on validation data" in note for note in kept.notes)
    assert "0.2: -0.7697, 0.4: -0.4699, 0.8: -0.5504" in kept.notes[0]


def test_of_equal_values_the_first_is_kept(tmp_path: Path) -> None:
    context = Kept(tmp_path).context(FAMILY, lambda _: {"near": 0.5})
    fused = scale_search(pool(1.0), {"near": Sides("near", FAMILY, 0)}, context, scales=[0.7, 0.1])
    assert float(fused.weights["w"]) == pytest.approx(0.7)


def test_each_task_can_have_its_own_factor(tmp_path: Path) -> None:
    kept, seen = Kept(tmp_path), []
    fused = scale_search(pool(1.0, 1.0001), TASKS, kept.context(FAMILY, values), scales=[0.2, 0.4, 0.8], by="task")
    for name, weights in fused._weights.items():
        seen.append((name, round(float(weights()["w"]), 2)))
    assert seen == [("near", 0.4), ("far", 1.6)]
    assert float(fused._shared["w"]) == pytest.approx(0.8, abs=1e-3)
    assert any("near 0.2, far 0.8" in note for note in kept.notes)


def test_of_errors_the_smallest_is_kept_for_the_model_and_for_a_task(tmp_path: Path) -> None:
    """Errors of 2 and 1 metres and shares of .5 and .45: λ = .4 is worth (2/1 + .45/.5)/2 = 1.45, λ = .2 is worth 1."""
    error = Metric("absolute_error", "metres", "lower", lambda rows: (0.0, 0.0))
    tasks = {"near": Sides("near", FAMILY, 0, metrics=(error,)), "far": Sides("far", FAMILY, 0)}

    def found(fused: Any) -> dict[str, float]:
        small = float(fused.weights["w"]) < 0.3
        return {"near": 2.0, "far": 0.5} if small else {"near": 1.0, "far": 0.45}

    kept = Kept(tmp_path)
    fused = scale_search(pool(1.0), tasks, kept.context(FAMILY, found), scales=[0.2, 0.4])
    assert float(fused.weights["w"]) == pytest.approx(0.4)
    assert "0.2: 1.0000, 0.4: 1.4500" in kept.notes[0]
    fused = scale_search(pool(1.0), tasks, kept.context(FAMILY, found), scales=[0.2, 0.4], by="task")
    assert any("near 0.4, far 0.2" in note for note in kept.notes)


def test_each_expert_can_have_its_own_factor(tmp_path: Path) -> None:
    """Experts 1 and 2 towards 1.7 with factors of .1 and .7: .7 for both overshoots to 2.1; (.1, .7) gives 1.5."""
    kept = Kept(tmp_path)
    context = kept.context(FAMILY, lambda fused: {"near": -abs(float(fused.weights["w"]) - 1.7)})
    fused = scale_search(pool(1.0, 2.0), {"near": Sides("near", FAMILY, 0)}, context, scales=[0.1, 0.7], by="expert")
    assert float(fused.weights["w"]) == pytest.approx(1.5)
    assert any("m1.0 0.1, m2.0 0.7" in note for note in kept.notes)


def test_other_parameters_of_the_inner_method_stay(tmp_path: Path) -> None:
    context = Kept(tmp_path).context(FAMILY, lambda fused: {"near": float(fused.weights["w"])})
    fused = scale_search(
        pool(1.0, 3.0),
        {"near": Sides("near", FAMILY, 0)},
        context,
        scales=[0.5, 1.0],
        inner={"name": "ties", "density": 1.0},
    )
    assert float(fused.weights["w"]) == pytest.approx(2.0)


def test_a_method_that_learns_is_learned_anew_for_each_factor(tmp_path: Path) -> None:
    learned, family = pool_of(), Toy(Net)
    inner = {"name": "concrete_task_arithmetic", "steps": 3, "batch": 4, "learning_rate": 0.1}
    seen = []

    def evaluate(fused: Any) -> dict[str, float]:
        seen.append(fused.weights["first.weight"].clone())
        return {"e0": float(len(seen))}

    kept = Kept(tmp_path / "a")
    found = scale_search(learned, tasks_of(learned), kept.context(family, evaluate), inner=inner, scales=[0.2, 0.4])
    params = MethodConfig.read(inner).params | {"scale": 0.4}
    alone = concrete_task_arithmetic(learned, tasks_of(learned), Kept(tmp_path / "b").context(family), **params)
    torch.testing.assert_close(seen[1], alone.weights["first.weight"])
    torch.testing.assert_close(found.weights["first.weight"], alone.weights["first.weight"])
    assert kept.used["adapted"]["split"] == "test"


def test_what_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    context = Kept(tmp_path).context(FAMILY, values)
    with pytest.raises(ConfigError, match="validation data"):
        scale_search(pool(1.0), {}, context)
    with pytest.raises(ConfigError, match="has no scale to search"):
        scale_search(pool(1.0), TASKS, context, inner={"name": "simple_average"})
    with pytest.raises(ConfigError, match="has no weights to search"):
        scale_search(pool(1.0), TASKS, context, inner={"name": "concrete_task_arithmetic"}, by="expert")
    with pytest.raises(ConfigError, match=r"method\.scales=\[\]"):
        scale_search(pool(1.0), TASKS, context, scales=[])
    with pytest.raises(ConfigError, match="gives no merged weights"):
        scale_search(pool(1.0), TASKS, context, inner={"name": "max_model"})
