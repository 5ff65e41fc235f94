"""A command that is killed at any touch of the disk leaves nothing partial, and goes on to what is whole."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dying import KILLED, digests, run_until

from checkpoints import save_model
from fusionbench.config import Recipe
from fusionbench.merge import merge
from fusionbench.report import report
from fusionbench.run import run
from fusionbench.weights import journal

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
# Of a run, what says when and where it was made; all else is the same each time.
OF_THE_MOMENT = {"run.json"}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(journal, "SYNC_BYTES", 0)
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "a", "b"):
        tensors = {f"layer{number}.weight": torch.randn(8, 8, generator=generator) for number in range(3)}
        save_model(tmp_path / name, tensors, {"model_type": "toy"})
    return tmp_path


def recipe(models: Path, *overrides: str) -> Recipe:
    experts = [f"experts.{name}={models / name}" for name in "ab"]
    start = [f"base={models / 'base'}", *experts, "runtime.threads=1", "output.shard_bytes=600"]
    return Recipe.load(None, [*start, "method=task_arithmetic", "method.scale=0.5", *overrides])


def lasting(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in digests(folder).items() if name not in OF_THE_MOMENT}


def deaths(command: Callable[[], object], check: Callable[[int], None], most: int = 400) -> int:
    """Kill a command at its first, second, … touch of the disk, and check each time; return how many there are."""
    for last in range(1, most):
        code = run_until(last, command)
        if code == 0:
            return last - 1
        assert code == KILLED, f"touch {last}: the command failed by itself"
        check(last)
    raise AssertionError(f"more than {most} touches of the disk")


@pytest.mark.slow
def test_a_merge_is_whole_or_not_there_and_is_finished_by_the_same_command(models: Path) -> None:
    merge(recipe(models), models / "whole", digest=True)
    expected, out = digests(models / "whole"), models / "out"

    def check(last: int) -> None:
        assert digests(out) in ({}, expected), f"touch {last}: a partial model"
        if not out.exists():
            assert run_until(0, lambda: merge(recipe(models), out, digest=True)) == 0, f"touch {last}"
        assert digests(out) == expected, f"touch {last}"
        assert not (models / "out.partial").exists()
        shutil.rmtree(out)

    # Three shards, their index, configuration, card and lock, each made, written, synced; and the rename.
    assert deaths(lambda: merge(recipe(models), out, digest=True), check) > 20


@pytest.mark.slow
def test_a_run_has_a_report_only_when_all_of_it_is_there(models: Path) -> None:
    run(recipe(models), out=models / "whole")
    expected, out = lasting(models / "whole"), models / "out"

    def check(last: int) -> None:
        left = lasting(out)
        if "report.json" in left:
            assert left == expected, f"touch {last}: a report of a partial run"
        model = {name: digest for name, digest in left.items() if name.startswith("model/")}
        whole = {name: digest for name, digest in expected.items() if name.startswith("model/")}
        assert model in ({}, whole), f"touch {last}: a partial model"
        assert run_until(0, lambda: run(recipe(models), out=out)) == 0, f"touch {last}"
        assert lasting(out) == expected, f"touch {last}"
        shutil.rmtree(out)

    assert deaths(lambda: run(recipe(models), out=out), check) > 30


def test_a_run_that_is_killed_before_its_recipe_is_on_disk_is_finished_by_the_same_command(models: Path) -> None:
    out = models / "out"
    for last in range(1, 100):
        assert run_until(last, lambda: run(recipe(models), out=out)) == KILLED
        if (out / "recipe.yaml").exists():
            return
        if out.exists():
            assert run_until(0, lambda: run(recipe(models), out=out)) == 0, f"touch {last}"
            shutil.rmtree(out)


def test_files_of_a_report_are_whole_or_not_there(models: Path) -> None:
    run(recipe(models), out=models / "runs" / "one")
    formats = ("md", "csv", "latex")
    report([models / "runs"], formats, models / "whole")
    expected, out = digests(models / "whole"), models / "out"
    assert len(expected) >= len(formats)

    def check(last: int) -> None:
        assert digests(out).items() <= expected.items(), f"touch {last}: a partial file"
        assert run_until(0, lambda: report([models / "runs"], formats, out)) == 0
        assert digests(out) == expected
        shutil.rmtree(out)

    assert deaths(lambda: report([models / "runs"], formats, out), check) >= 2 * len(formats)
