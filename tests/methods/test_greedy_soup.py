"""Greedy soup: the worked example, ties, and what is reported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import Kept, Toy

from fusionbench.errors import ConfigError
from fusionbench.merge import Pool
from fusionbench.methods.greedy_soup import greedy_soup
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
    fused = greedy_soup(pool(3.0, 0.6, 1.5), {"task": object()}, kept.context(FAMILY, value))
    assert float(fused.weights["w"]) == pytest.approx(1.05)
    assert "m0.6" in kept.notes[0]
    assert "m1.5" in kept.notes[0]
    assert "m3.0" not in kept.notes[0]
    assert kept.used["selected"] == {"split": "validation", "tasks": ("task",)}


def test_a_model_that_changes_nothing_is_kept_unless_strict(tmp_path: Path) -> None:
    def flat(fused: Any) -> dict[str, float]:
        return {"task": 0.5}

    loose = greedy_soup(pool(2.0, 4.0), {"task": object()}, Kept(tmp_path).context(FAMILY, flat))
    strict = greedy_soup(pool(2.0, 4.0), {"task": object()}, Kept(tmp_path).context(FAMILY, flat), strict=True)
    assert float(loose.weights["w"]) == 3.0
    assert float(strict.weights["w"]) == 2.0


def test_it_needs_data_to_decide_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="validation data"):
        greedy_soup(pool(1.0), {}, Kept(tmp_path).context(FAMILY, value))
