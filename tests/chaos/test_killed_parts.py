"""Merges whose files several processes make, killed at any touch of the disk: nothing partial, and they go on.

Starter and workers are one process here, so that a death may fall into either.
"""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from dying import Trial

from checkpoints import save_model
from fusionbench.config import Recipe
from fusionbench.launch.jobs import perform
from fusionbench.launch.launching import LAUNCHERS
from fusionbench.merge import merge

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "a", "b"):
        tensors = {f"layer{number}.weight": torch.randn(8, 8, generator=generator) for number in range(3)}
        save_model(tmp_path / name, tensors, {"model_type": "toy"})

    def here(jobs: Sequence[Any], launcher: Any, threads: int) -> Generator[tuple[int, Any], None, None]:
        yield from ((number, perform(job)) for number, job in enumerate(jobs))

    for name in ("processes", "ray"):
        monkeypatch.setitem(LAUNCHERS, name, here)
    return tmp_path


def merged(models: Path, launcher: str, place: Path) -> None:
    """What the command does: a folder that is whole is not merged once more."""
    experts = [f"experts.{name}={models / name}" for name in "ab"]
    start = [f"base={models / 'base'}", *experts, f"runtime.launcher={launcher}", "output.shard_bytes=600"]
    recipe = Recipe.load(None, [*start, "method=ties"])
    if not (place / "model").exists():
        merge(recipe, place / "model", in_parts=True, digest=True)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["processes", "ray"])
def test_a_merge_in_parts_is_whole_or_not_there_and_is_finished_by_the_same_command(
    models: Path, launcher: str
) -> None:
    assert Trial(lambda place: merged(models, launcher, place), models).deaths() > 30


@pytest.mark.parametrize("launcher", ["processes", "ray"])
def test_a_merge_in_parts_that_is_killed_at_some_touches_of_the_disk_is_finished(models: Path, launcher: str) -> None:
    assert Trial(lambda place: merged(models, launcher, place), models).deaths(every=9) > 3
