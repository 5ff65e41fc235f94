"""Sweeps, searches and experiments, killed at touches of the disk, end as if they had not been."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from dying import WITH_TIMES, Line, Trial

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.mark.slow
def test_a_sweep_that_is_killed_at_any_touch_of_the_disk_ends_as_if_it_had_not_been(
    line: Line, suite: Path, tmp_path: Path
) -> None:
    asked = ("method=task_arithmetic", "method.scale=0.1,0.3", "output.model=false", "runtime.threads=1")
    command = line("run", f"suite={suite}", *asked, "-m", "--out", "OUT")
    assert Trial(command, tmp_path, moment=WITH_TIMES).deaths(every=7) > 15


def statements(touched: Callable[[], None]) -> None:
    """Count what a study's database is told, too."""
    from sqlalchemy import Engine, event

    def told(connection: object, cursor: object, statement: str, *more: object) -> None:
        if not statement.startswith(("SELECT", "PRAGMA")):
            touched()

    event.listen(Engine, "before_cursor_execute", told)
    event.listen(Engine, "commit", lambda connection: touched())


def searched(place: Path) -> dict[str, object]:
    """What is the same of a search that was killed: a trial that it was killed in counts, and has no values."""
    found = json.loads((place / "out" / "search.json").read_text())
    scored = {trial["number"]: trial["values"][0] for trial in found["trials"] if trial["values"]}
    reports = list((place / "out" / "trials").glob("*/report.json"))
    best = [path.parent.name for path in (place / "out" / "best").glob("*/report.json")]
    return {
        "trials": len(found["trials"]),
        "lost": {trial["error"] for trial in found["trials"]} <= {None, "interrupted"} and len(scored) >= 2,
        "reports": len(scored) <= len(reports) <= 3,
        "best": best == [f"trial-{number}" for number in found["best"]],
        "chosen": found["best"] == [max(scored, key=lambda number: (scored[number], -number))],
    }


@pytest.mark.slow
def test_a_search_that_is_killed_at_any_touch_of_the_disk_goes_on_and_loses_one_trial_at_most(
    line: Line, suite: Path, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    asked = ("method=task_arithmetic", "method.scale=interval(0,1)", "runtime.threads=1", "--trials", 3)
    trial = Trial(line("search", f"suite={suite}", *asked, "--out", "OUT"), tmp_path, statements, searched)
    assert trial.deaths(every=29) > 5


@pytest.mark.slow
def test_an_experiment_that_is_killed_at_any_touch_of_the_disk_ends_as_if_it_had_not_been(
    line: Line, suite: Path, tmp_path: Path
) -> None:
    command = line("reproduce", suite.parent / "table.yaml", "--suite", "mini", "--out", "OUT")
    trial = Trial(command, tmp_path)
    assert "out/answer.html" in trial.expected
    assert trial.deaths(every=37) > 10
