"""Methods that look at the experts' data before they merge, through the command line on the tiny suite."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from fusionbench import load_suite

Run = Callable[..., subprocess.CompletedProcess[str]]
TINY = ("suite=mini/clip", "suite.size=tiny", "method.examples=16")


@pytest.fixture
def run(fusionbench: Run, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(cache))
    load_suite("mini/clip", size="tiny")

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        found = fusionbench("run", *TINY, *arguments)
        assert found.returncode == 0, found.stderr
        return found

    return call


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize("method", [("fisher", "method.estimator=sampled"), ("regmean",)], ids=str)
def test_statistics_are_collected_kept_used_again_and_reported(
    method: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    first, again, stored = tmp_path / "first", tmp_path / "again", tmp_path / "stored"
    run(f"method={method[0]}", *method[1:], "--out", first)
    looked_at = report(first)["adapted_on"]
    assert (looked_at["split"], looked_at["count"], len(looked_at["tasks"])) == ("train", 8 * 16, 8)
    folders = sorted((first / "artefacts" / "statistics").iterdir())
    assert [folder.name for folder in folders] == sorted(report(first)["tasks"])

    # What an interrupted run had collected is not collected again: a changed statistic changes the model.
    shutil.copytree(first, again)
    for name in ("report.json", "model"):
        path = again / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    swapped = [again / "artefacts" / "statistics" / folder.name for folder in folders[:2]]
    shutil.rmtree(swapped[0])
    shutil.copytree(swapped[1], swapped[0])
    run(f"method={method[0]}", *method[1:], "--out", again)
    assert model(again) != model(first)

    kept = first / "artefacts" / "statistics"
    run(f"method={method[0]}", *method[1:], f"method.statistics={kept}", "--out", stored)
    assert model(stored) == model(first)
    assert report(stored)["tasks"] == report(first)["tasks"]
    assert report(stored)["adapted_on"] == looked_at
    assert any("collected before" in note for note in report(stored)["notes"])
    assert not (stored / "artefacts" / "statistics").exists()


def model(folder: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(folder / "model" / "model.safetensors").items()}


def test_regmean_plusplus_writes_a_model_and_says_what_it_looked_at(run: Run, tmp_path: Path) -> None:
    run("method=regmean_plusplus", "--out", tmp_path / "a")
    assert report(tmp_path / "a")["adapted_on"]["split"] == "train"
    assert model(tmp_path / "a")


def test_a_merge_without_data_or_statistics_says_what_to_do(fusionbench: Run, cache: Path, tmp_path: Path) -> None:
    suite = load_suite("mini/clip", size="tiny").suite.pool.experts
    experts = [f"experts.{name}={expert.model}" for name, expert in list(suite.items())[:2]]
    found = fusionbench("merge", "method=fisher", *experts, "--out", tmp_path / "merged")
    assert found.returncode == 2
    assert "method.statistics=" in found.stderr
    assert not (tmp_path / "merged").exists()
