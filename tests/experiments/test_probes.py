"""Matrices of scored models: what their values are called, and which tasks they have."""

import json
from pathlib import Path

import pytest

from fusionbench.config import Recipe
from fusionbench.experiments.probes import transfer_square
from fusionbench.records import MethodRef, MetricInfo, Report, Score, TaskScore, Variant

INFOS = {
    "accuracy": MetricInfo(),
    "angle_mean": MetricInfo(unit="degrees", better="lower"),
}


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, object]:
    """Plain data of a recipe on a suite of two experts and a task that is unseen; no model is there."""
    document = {
        "name": "rooms",
        "pool": {"base": "./base", "experts": {"classes": "./a", "normals": "./b"}},
        "tasks": {name: {"dataset": "./data"} for name in ("classes", "normals", "others")},
        "unseen": ["others"],
    }
    (tmp_path / "suite.yaml").write_text(json.dumps(document))
    return {"suite": str(tmp_path / "suite.yaml"), "method": "pretrained"}


def report(**values: tuple[str, float]) -> Report:
    """A report of tasks, each with its primary metric and its value."""
    scores = {task: TaskScore.of({metric: Score(value=value, n=4)}) for task, (metric, value) in values.items()}
    variant = Variant.build(scores, INFOS)
    return Report.build(identity="sha256:0", method=MethodRef(name="pretrained"), variants=[variant], metrics=INFOS)


def test_shares_are_percent_and_degrees_are_not(asked: dict[str, object]) -> None:
    recipe = Recipe.read({**asked, "tasks": {"seen": ["classes"], "unseen": []}}, "The analysis")
    square = transfer_square(recipe, {"base": report(classes=("accuracy", 0.25))})
    assert (square.percent, square.cell(0, 0)) == (True, "25.0")
    recipe = Recipe.read({**asked, "tasks": {"seen": ["classes", "normals"], "unseen": []}}, "The analysis")
    mixed = report(classes=("accuracy", 0.25), normals=("angle_mean", 35.31))
    square = transfer_square(recipe, {"base": mixed})
    assert (square.percent, square.cell(0, 0), square.cell(0, 1)) == (False, "0.25", "35.31")
    assert "%" not in square.caption


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ({}, ["classes", "normals", "others"]),
        ({"unseen": []}, ["classes", "normals"]),
        ({"seen": []}, ["others"]),
        ({"seen": ["normals"]}, ["normals", "others"]),
    ],
)
def test_the_columns_are_the_tasks_that_were_asked_for(
    asked: dict[str, object], tasks: dict[str, list[str]], expected: list[str]
) -> None:
    recipe = Recipe.read({**asked, "tasks": tasks}, "The analysis")
    values = dict.fromkeys(expected, ("accuracy", 0.5))
    assert list(transfer_square(recipe, {"base": report(**values)}).columns) == expected
