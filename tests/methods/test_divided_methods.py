"""Several processes learn what one learns: 20 steps in float64; the same numbers in each of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from routing import BlockFamily, Blocks, called, known
from safetensors.torch import load_file
from test_pwe_moe import Wanted
from toys import Kept, Sides

from forked import in_double, in_processes
from fusionbench.errors import ConfigError
from fusionbench.merge import Pool
from fusionbench.methods import _concrete_mask
from fusionbench.methods.adamerging import adamerging
from fusionbench.methods.concrete import concrete_adamerging, concrete_task_arithmetic
from fusionbench.methods.pwe_moe import pwe_moe
from fusionbench.methods.wemoe import wemoe
from fusionbench.mixing import mixed
from fusionbench.training import joined, read_curve
from fusionbench.weights.tensors import TensorSource

FAMILY = BlockFamily()
TOLERANCE = 1e-9
"""1e-5 is asked for; only the order of sums differs."""
EXPERTS = 3
CASES: dict[str, tuple[Any, str, str, dict[str, Any]]] = {
    "adamerging": (adamerging, "coefficients", "adamerging", {"steps": 20, "batch": 8, "learning_rate": 0.02}),
    "adamerging in parts": (
        adamerging, "coefficients", "adamerging", {"steps": 20, "batch": 8, "together": 3, "granularity": "task"},
    ),
    "concrete_task_arithmetic": (
        concrete_task_arithmetic, "mask", "concrete", {"steps": 20, "batch": 8, "learning_rate": 0.05},
    ),
    "concrete_adamerging": (
        concrete_adamerging, "coefficients", "concrete",
        {"mask_steps": 20, "steps": 20, "batch": 8, "learning_rate": 0.02, "inner_rate": 0.2},
    ),
    "concrete_adamerging as official": (
        concrete_adamerging, "mask", "concrete",
        {"mask_steps": 20, "steps": 1, "batch": 8, "inner": "adam", "inner_rate": 0.1, "merge_point": "stale"},
    ),
    "wemoe": (wemoe, "routers", "wemoe", {"steps": 20, "batch": 8, "learning_rate": 0.02}),
    "wemoe by token": (wemoe, "routers", "wemoe", {"steps": 20, "batch": 8, "depth": 1, "learning_rate": 0.02}),
    "pwe_moe": (pwe_moe, "gates", "pwe_moe", {"steps": 20, "batch": 8}),
    "pwe_moe, exact": (pwe_moe, "gates", "pwe_moe", {"steps": 20, "batch": 8, "objective": "exact"}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, FAMILY)
    monkeypatch.setattr(mixed, "family_named", lambda name: FAMILY)
    monkeypatch.setattr(_concrete_mask, "SMALL", 4)


def pool() -> Pool:
    """A base and experts that differ more than `routing.pool_of`'s, in the default kind of number."""
    torch.manual_seed(0)
    base = Blocks()
    models = {}
    for number in range(EXPERTS):
        model = Blocks()
        with torch.no_grad():
            for own, other in zip(model.parameters(), base.parameters(), strict=True):
                own.copy_(other + 0.3 * torch.randn(own.shape))
        models[f"e{number}"] = TensorSource(f"e{number}", model.state_dict(), {"model_type": "toy"})
    source = TensorSource("base", base.state_dict(), {"model_type": "toy"})
    return Pool(source, models, tasks={name: name for name in models})


def learned(folder: Path, case: str) -> tuple[list[float], list[float]]:
    """What one of these processes ends with, and the curve that it saw."""
    in_double()
    method, artefact, training, values = CASES[case]
    models, processes = pool(), joined()
    make = Wanted if method is pwe_moe else Sides
    tasks = {
        name: Wanted(name, number) if make is Wanted else Sides(name, FAMILY, number)
        for number, name in enumerate(models.experts)
    }
    place = folder / f"{processes.count}-{processes.rank}"
    told: list[float] = []
    kept = Kept(place).context(FAMILY, log_every=1, processes=processes)
    called(method, models, tasks, kept, **values)
    tensors = load_file(place / artefact / "model.safetensors")
    numbers = torch.cat([tensor.double().flatten() for tensor in tensors.values()]).tolist()
    if processes.is_main:
        told = [point.metrics["loss"] for point in read_curve(place / "training" / training)]
    return numbers, told


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [2, 4])
def test_they_learn_what_one_learns(tmp_path: Path, case: str, count: int) -> None:
    """Two divide three tasks; four divide the batch of one of them too."""
    (alone,) = in_processes(1, lambda: learned(tmp_path, case))
    several = in_processes(count, lambda: learned(tmp_path, case))
    assert len(alone[1]) == 20
    for numbers, _ in several:
        assert numbers == several[0][0]
        assert numbers == pytest.approx(alone[0], abs=TOLERANCE)
    assert several[0][1] == pytest.approx(alone[1], abs=TOLERANCE)
    first, last = (torch.tensor(alone[0]), torch.tensor(several[0][0]))
    assert first.std() > 1e-3, "what is learned moved"
    assert last.isfinite().all()


def test_a_batch_that_shares_weights_is_not_divided(tmp_path: Path) -> None:
    def routed() -> None:
        models = pool()
        tasks = {name: Sides(name, FAMILY, number) for number, name in enumerate(models.experts)}
        context = Kept(tmp_path).context(FAMILY, processes=joined())
        with pytest.raises(ConfigError, match=r"whole batch, which 4 processes would divide, of 3 tasks"):
            called(wemoe, models, tasks, context, steps=1, route="batch")

    assert in_processes(4, routed) == [None] * 4
