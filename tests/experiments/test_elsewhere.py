"""Rows of another experiment are taken from its finished runs, where they are the very runs that it would make."""

from pathlib import Path

import pytest

from fusionbench.experiments.elsewhere import lines_elsewhere, runs_folder
from fusionbench.experiments.model import load_experiment, points
from fusionbench.records import MethodRef, MetricInfo, Report, Score, TaskScore, Variant

HERE, OTHER = "multi-task-clip-b32", "multi-task-clip-l14"


def finish(folder: Path, label: str, value: float, *, profile: str | None = None, seed: int = 0, **changes) -> None:
    """Leave a finished run of a row of the other experiment in a folder."""
    experiment = load_experiment(OTHER)
    (point,) = [
        point for point in points(experiment, stand_in=True, profile=profile, seed=seed) if point.row.label == label
    ]
    metrics = {"accuracy": MetricInfo()}
    scores = {"mnist": TaskScore.of({"accuracy": Score(value=value, n=4, stderr=0.0)}, seen=True)}
    report = Report.build(
        identity="sha256:0", method=MethodRef(name="ties"), variants=[Variant.build(scores, metrics)], metrics=metrics
    )
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(point.load(**changes).to_yaml())
    report.save(folder)


def found(out: Path, profile: str | None = None, seeds: tuple[int, ...] = (0,)) -> dict[str, float]:
    lines = lines_elsewhere(load_experiment(HERE), out, "mini", profile, seeds)[OTHER]
    return {line.label: line.values["average"].value for line in lines}


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine" / "b32"


def test_nothing_is_found_where_nothing_was_run(out):
    assert found(out) == {}


def test_finished_rows_are_found_beside_the_folder_and_in_the_default_one(out):
    beside = out.parent / runs_folder(OTHER, "mini").name
    finish(beside / "a", "individual", 0.9)
    finish(runs_folder(OTHER, "mini") / "b", "ties", 0.6, **{"runtime.threads": 1})
    (line,) = [
        line
        for line in lines_elsewhere(load_experiment(HERE), out, "mini", None, (0,))[OTHER]
        if line.label == "individual"
    ]
    assert found(out) == {"individual": 90.0, "ties": 60.0}
    # Printed for ViT-L/14; of a stand-in only averages stand beside it.
    assert line.printed == {"average": 94.3}


def test_runs_of_another_schedule_seed_or_parameter_are_not_taken(out):
    beside = out.parent / runs_folder(OTHER, "mini").name
    finish(beside / "a", "wemoe", 0.8, profile="quick")
    finish(beside / "b", "ties", 0.6, seed=1)
    finish(beside / "c", "task_arithmetic", 0.5, **{"method.scale": 0.7})
    (beside / "broken").mkdir()
    (beside / "broken" / "report.json").write_text((beside / "a" / "report.json").read_text())
    assert found(out) == {}
    assert found(out, profile="quick") == {"wemoe": 80.0}
    assert found(out, seeds=(1,)) == {"ties": 60.0}
    assert found(out, seeds=(0, 1)) == {}
    finish(beside / "d", "ties", 0.7)
    assert found(out, seeds=(0, 1)) == {"ties": 65.0}
