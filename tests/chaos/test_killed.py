"""Merges, runs without tasks and reports that are killed at any touch of the disk leave nothing partial, and go on."""

import shutil
from pathlib import Path

import pytest
import torch
from dying import KILLED, Trial, run_until

from checkpoints import save_model
from fusionbench.config import Recipe
from fusionbench.merge import merge
from fusionbench.report import report
from fusionbench.run import run
from fusionbench.weights import journal

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


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


def merged(models: Path, place: Path) -> None:
    """What the command does: a folder that is whole is not merged once more."""
    if not (place / "model").exists():
        merge(recipe(models), place / "model", digest=True)


@pytest.mark.slow
def test_a_merge_is_whole_or_not_there_and_is_finished_by_the_same_command(models: Path) -> None:
    # Three shards, their index, configuration, card and lock, each made, written, synced; and the rename.
    assert Trial(lambda place: merged(models, place), models).deaths() > 20


def test_a_merge_that_is_killed_at_some_touches_of_the_disk_is_finished(models: Path) -> None:
    trial = Trial(lambda place: merged(models, place), models)
    assert trial.deaths(every=7) > 3
    trial.kills()


@pytest.mark.slow
def test_a_run_has_a_report_only_when_all_of_it_is_there(models: Path) -> None:
    assert Trial(lambda place: run(recipe(models), out=place / "run"), models).deaths() > 30


def test_a_run_that_is_killed_before_its_recipe_is_on_disk_is_finished_by_the_same_command(models: Path) -> None:
    out = models / "out"
    for last in range(1, 100):
        assert run_until(last, lambda: run(recipe(models), out=out)) == KILLED
        if (out / "recipe.yaml").exists():
            return
        if out.exists():
            assert run_until(0, lambda: run(recipe(models), out=out)) == 0, f"touch {last}"
            shutil.rmtree(out)


EVERY_FORMAT = ("md", "csv", "latex", "html", "interactive", "png", "pdf", "json-long", "parquet")


@pytest.mark.parametrize("formats", [("md", "csv", "latex"), pytest.param(EVERY_FORMAT, marks=pytest.mark.slow)])
def test_files_of_a_report_are_whole_or_not_there(models: Path, formats: tuple[str, ...]) -> None:
    run(recipe(models), out=models / "runs" / "one")
    trial = Trial(lambda place: report([models / "runs"], formats, place), models)
    # A run without tasks has no scores to draw.
    assert len(trial.expected) >= min(len(formats), 7)
    assert trial.deaths() >= 2 * len(trial.expected)
