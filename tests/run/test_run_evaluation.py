"""One model, scored on a suite: what the report says of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fusionbench.config import Recipe, RuntimeConfig, SuiteConfig, TasksConfig
from fusionbench.errors import ConfigError, MissingData
from fusionbench.run import evaluate_model, run
from fusionbench.weights.sources import open_source

Make = Callable[..., Recipe]


@pytest.mark.parametrize("method", ["task_arithmetic", "greedy_soup"])
def test_the_report_is_of_the_model_that_was_evaluated(recipe: Make, suite: Path, tmp_path: Path, method: str) -> None:
    made = run(recipe(method), out=tmp_path / "run").report
    place = tmp_path / "run" / "model"
    report = evaluate_model(str(place), SuiteConfig(name=str(suite)), TasksConfig())
    assert report.tasks == made.tasks
    assert (report.method.name, report.method.params) == (method, made.method.params)
    assert report.inputs["model"] == open_source(place).fingerprint()
    assert report.variants[0].model == made.variants[0].model
    assert report.variants[0].normalized == made.variants[0].normalized


def test_the_identity_is_that_of_the_weights_and_of_what_they_are_scored_on(suite: Path) -> None:
    def scored(model: str, **tasks: object) -> str:
        return evaluate_model(
            str(suite.parent / model), SuiteConfig(name=str(suite)), TasksConfig(limit=4, **tasks)
        ).identity

    first = scored("cats")
    assert scored("cats") == first
    assert len({first, scored("dogs"), scored("base"), scored("cats", seen=("dogs",))}) == 4


def test_a_model_that_does_not_say_what_made_it_is_a_model(suite: Path) -> None:
    report = evaluate_model(str(suite.parent / "cats"), SuiteConfig(name=str(suite)), TasksConfig(limit=4))
    assert report.method.name == "model"
    assert set(report.inputs) == {"base", "model"}


def test_it_is_scored_on_the_device_of_the_recipe(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    with pytest.raises(ConfigError, match=r"runtime\.device=mps"):
        evaluate_model(
            str(suite.parent / "cats"), SuiteConfig(name=str(suite)), TasksConfig(limit=4),
            runtime=RuntimeConfig(device="mps"),
        )  # fmt: skip


def test_what_is_missing_of_the_last_task_is_told_before_the_first_is_scored(suite: Path, tmp_path: Path) -> None:
    document = json.loads(suite.read_text())
    document["tasks"]["dogs"]["splits"] = {"train": "train"}
    suite.write_text(json.dumps(document))
    with pytest.raises(MissingData, match="dogs has no split 'test'"):
        evaluate_model(str(suite.parent / "cats"), SuiteConfig(name=str(suite)), TasksConfig(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
