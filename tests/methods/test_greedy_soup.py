"""Greedy soup: the worked example, ties, and what is reported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import Kept, Sides, Toy

from fusionbench.errors import ConfigError
from fusionbench.merge import Pool
from fusionbench.methods.greedy_soup import greedy_soup
from fusionbench.tasks import Metric
from fusionbench.weights.tensors import TensorSource


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, points: Tensor) -> Tensor:
        return points * self.w


FAMILY = Toy(Scalar)


def pool(*values: float) -> Pool:
    def source(name: str, value: float) -> TensorSource:
        return TensorSource(name, {"w": torch.tensor(value)}, {"model_type": "toy"})

    return Pool(source("base", 0.0), {f"m{v}": source(f"m{v}", v) for v in values})


def value(fused: Any) -> dict[str, float]:
    return {"task": -abs(float(fused.weights["w"]) - 1)}


def test_the_worked_example(tmp_path: Path) -> None:
    """Models .6, 1.5, 3 with the value −|θ − 1|: .6 and 1.5 are kept, the soup is 1.05, 3 is refused (1.7)."""
    kept = Kept(tmp_path)
    fused = greedy_soup(pool(3.0, 0.6, 1.5), {"task": Sides("task", FAMILY, 0)}, kept.context(FAMILY, value))
    assert float(fused.weights["w"]) == pytest.approx(1.05)
    assert "m0.6" in kept.notes[0]
    assert "m1.5" in kept.notes[0]
    assert "m3.0" not in kept.notes[0]
    assert kept.used["selected"] == {"split": "validation", "tasks": ("task",)}


def test_a_model_that_changes_nothing_is_kept_unless_strict(tmp_path: Path) -> None:
    def flat(fused: Any) -> dict[str, float]:
        return {"task": 0.5}

    loose = greedy_soup(pool(2.0, 4.0), {"task": Sides("task", FAMILY, 0)}, Kept(tmp_path).context(FAMILY, flat))
    strict = greedy_soup(
        pool(2.0, 4.0), {"task": Sides("task", FAMILY, 0)}, Kept(tmp_path).context(FAMILY, flat), strict=True
    )
    assert float(loose.weights["w"]) == 3.0
    assert float(strict.weights["w"]) == 2.0


def test_errors_count_the_other_way_and_units_do_not_add_up(tmp_path: Path) -> None:
    """Weights 1, 2, 4: shares .8, .4, .2 and errors of 100, 50, 200 metres.

    Beside the best (.8; 50) they are worth (1 + .5)/2 = .75, (.5 + 1)/2 = .75 and (.25 + .25)/2 = .25. The first two
    make 1.5, with .6 and 40: (.75 + 1.25)/2 = 1; with 4 it is 7/3, (.3 and 150): .35. A mean of the numbers would
    have begun with 4, whose error is largest.
    """
    found = {1.0: (0.8, 100.0), 2.0: (0.4, 50.0), 4.0: (0.2, 200.0), 1.5: (0.6, 40.0), 2.33: (0.3, 150.0)}

    def value(fused: Any) -> dict[str, float]:
        return dict(zip(("share", "error"), found[round(float(fused.weights["w"]), 2)], strict=True))

    share = Metric("accuracy", "fraction", "higher", lambda rows: (0.0, 0.0))
    error = Metric("absolute_error", "metres", "lower", lambda rows: (0.0, 0.0))
    tasks = {"share": Sides("share", FAMILY, 0, metrics=(share,)), "error": Sides("error", FAMILY, 0, metrics=(error,))}
    kept = Kept(tmp_path)
    fused = greedy_soup(pool(1.0, 2.0, 4.0), tasks, kept.context(FAMILY, value))
    assert float(fused.weights["w"]) == pytest.approx(1.5)
    assert "m1.0 0.7500, + m2.0 1.0000" in kept.notes[0]


def test_a_soup_has_the_statistics_of_its_ingredients_alone(tmp_path: Path) -> None:
    """Means 0 and 2 with variances 1 make 1 and 1 + 1; the third expert, which is refused, has no part in them."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

    def source(name: str, weight: float, mean: float) -> TensorSource:
        state = Normed().state_dict() | {
            "norm.weight": torch.tensor([weight]),
            "norm.running_mean": torch.tensor([mean]),
        }
        return TensorSource(name, state, {"model_type": "toy"})

    models = {"a": source("a", 0.9, 0.0), "b": source("b", 1.3, 2.0), "c": source("c", 9.0, 50.0)}
    seen: list[dict[str, float]] = []

    def value(fused: Any) -> dict[str, float]:
        seen.append({name: float(tensor.reshape(-1)[0]) for name, tensor in fused.weights.items()})
        return {"task": -abs(seen[-1]["norm.weight"] - 1)}

    family = Toy(Normed)
    tasks = {"task": Sides("task", family, 0)}
    pool = Pool(source("base", 1.0, 7.0), models)
    fused = greedy_soup(pool, tasks, Kept(tmp_path).context(family, value))
    assert fused.weights["norm.running_mean"].tolist() == [1.0]
    assert fused.weights["norm.running_var"].tolist() == [2.0]
    assert [one["norm.running_mean"] for one in seen[:3]] == [0.0, 2.0, 50.0]


def test_it_needs_data_to_decide_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="validation data"):
        greedy_soup(pool(1.0), {}, Kept(tmp_path).context(FAMILY, value))
