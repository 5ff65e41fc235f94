"""Sweeps, searches and experiments, killed at touches of the disk, end as if they had not been."""

from collections.abc import Callable
from pathlib import Path

import pytest
from dying import WITH_TIMES, Line, Trial, lasting

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


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_is_killed_at_any_touch_of_the_disk_ends_as_if_it_had_not_been(
    line: Line, suite: Path, tmp_path: Path, sampler: str
) -> None:
    pytest.importorskip("optuna")
    asked = ("method=task_arithmetic", "method.scale=interval(0,1)", "runtime.threads=1", "--trials", 3)
    command = line("search", f"suite={suite}", *asked, "--sampler", sampler, "--out", "OUT")
    # The best trial's report is written once more, with what selected it.
    trial = Trial(command, tmp_path, statements, ended=lambda place: lasting(place / "out"))
    assert trial.deaths(every=29) > 5


@pytest.mark.slow
def test_an_experiment_that_is_killed_at_any_touch_of_the_disk_ends_as_if_it_had_not_been(
    line: Line, suite: Path, tmp_path: Path
) -> None:
    command = line("reproduce", suite.parent / "table.yaml", "--suite", "mini", "--out", "OUT")
    trial = Trial(command, tmp_path)
    assert "out/answer.html" in trial.expected
    assert trial.deaths(every=37) > 10
