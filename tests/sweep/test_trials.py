"""A search through a launcher: as many trials at once as there are workers, and the same ones whatever happens."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from fusionbench.errors import ConfigError, Interrupted, NotFinite
from fusionbench.sweep import Found, local, search
from fusionbench.sweep.study import sampler_of
from launched_here import jobs_here

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("cache")
THREE = ["launcher=processes", "launcher.workers=3"]
TWO = ["launcher=processes", "launcher.workers=2"]


def searched(suite: Path, out: Path, *overrides: str, trials: int = 7, sampler: Any = "tpe", **options: Any) -> Found:
    """Search a scale on the suite."""
    asked = [f"suite={suite}", "tasks.limit=4", "method=task_arithmetic", "method.scale=interval(0,2)"]
    return search(None, [*asked, *overrides], out, trials=trials, sampler=sampler, **options)


def test_trials_are_drawn_and_run_as_many_at_once_as_there_are_workers(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = jobs_here(monkeypatch)
    found = searched(noisy, tmp_path / "first", *THREE, trials=5)
    # Five trials, and the best of them once more on the test split.
    assert given == [3, 2, 1]
    assert [trial.number for trial in found.trials] == list(range(5))
    assert len({trial.overrides for trial in found.trials}) == 5
    assert json.loads((tmp_path / "first" / "search.json").read_text())["at_once"] == 3
    (result,) = found.results
    assert result.folder == tmp_path / "first" / "best" / f"trial-{found.best[0]}"
    assert result.report.selected_on is not None
    assert f"method.scale={result.report.method.params['scale']!r}" == found.trials[found.best[0]].overrides[0]
    again = searched(noisy, tmp_path / "second", *THREE, trials=5)
    assert (again.trials, again.best) == (found.trials, found.best)


@pytest.mark.parametrize(("sampler", "stop_after"), [("random", 0), ("cmaes", 1), ("nsga2", 2), ("tpe", 3)])
def test_a_search_that_is_stopped_among_trials_goes_on_as_if_it_had_not_been(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, stop_after: int
) -> None:
    jobs_here(monkeypatch)
    whole = searched(noisy, tmp_path / "whole", *TWO, trials=4, sampler=sampler)
    jobs_here(monkeypatch, stop_after)
    with pytest.raises(Interrupted):
        searched(noisy, tmp_path / "broken", *TWO, trials=4, sampler=sampler)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "broken").glob("trials/*/report.json")}
    assert len(made) == stop_after
    given = jobs_here(monkeypatch)
    found = searched(noisy, tmp_path / "broken", *TWO, trials=4, sampler=sampler)
    assert given == [2, 2, 1][stop_after // 2 :]
    assert (found.trials, found.best) == (whole.trials, whole.best)
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_a_batch_that_was_half_drawn_is_filled(noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs_here(monkeypatch)
    whole = searched(noisy, tmp_path / "whole", *THREE, sampler="random")
    trials = importlib.import_module("fusionbench.sweep.trials")
    real, drawn = trials.draw, []

    def dying(trial: Any, space: Any) -> list[str]:
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(real(trial, space))
        return drawn[-1]  # type: ignore[no-any-return]

    monkeypatch.setattr(trials, "draw", dying)
    with pytest.raises(KeyboardInterrupt):
        searched(noisy, tmp_path / "broken", *THREE, sampler="random")
    monkeypatch.setattr(trials, "draw", real)
    given = jobs_here(monkeypatch)
    found = searched(noisy, tmp_path / "broken", *THREE, sampler="random")
    # The fifth was begun and had drawn nothing: it counts as failed, and the batch has the fourth and the sixth.
    assert given == [2, 1, 1]
    assert found.trials[4].error == "interrupted"
    same = [number for number in range(7) if number != 4]
    assert [found.trials[number] for number in same] == [whole.trials[number] for number in same]


def test_a_trial_that_fails_at_a_worker_is_a_row_with_the_reason(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs_here(monkeypatch)
    real = local.run

    def failing(recipe: Any, **options: Any) -> Any:
        if recipe.method.params["scale"] > 1:
            raise NotFinite("the weights are broken")
        return real(recipe, **options)

    monkeypatch.setattr(local, "run", failing)
    found = searched(noisy, tmp_path / "s", *THREE, sampler="random")
    for trial in found.trials:
        failed = float(trial.overrides[0].partition("=")[2]) > 1
        assert trial.error == ("the weights are broken" if failed else None)
        assert (trial.values is None) == failed
    assert 0 < sum(trial.values is None for trial in found.trials) < 7
    monkeypatch.setattr(local, "run", lambda recipe, **options: (_ for _ in ()).throw(NotFinite("all are broken")))
    with pytest.raises(ConfigError, match=r"Every trial failed. The first reason: all are broken"):
        searched(noisy, tmp_path / "none", *THREE, trials=2)


def test_several_best_trials_are_scored_in_folders_of_their_own(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = jobs_here(monkeypatch)
    asked = [f"suite={noisy}", "method=weighted_average", "method.weights=each(0,1)", *THREE]
    found = search(None, asked, tmp_path / "s", trials=6, sampler="nsga2", objectives=("cats", "dogs"))
    assert given == [3, 3, len(found.best)]
    assert [result.folder.name for result in found.results] == [f"trial-{number}" for number in found.best]


def test_how_the_work_is_done_makes_no_other_search(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs_here(monkeypatch)
    first = searched(noisy, tmp_path / "s", *THREE, trials=3)
    more = searched(noisy, tmp_path / "s", "runtime.threads=1", trials=4)
    assert more.trials[:3] == first.trials
    with pytest.raises(ConfigError, match="other overrides"):
        searched(noisy, tmp_path / "s", "seed=1", trials=4)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["launcher=ray"], r"Say how many: launcher.workers=8"),
        (["launcher=slurm"], r"Say how many: launcher.workers=8"),
        (["launcher=processes", "launcher.workers=1,2"], r"launcher.workers: how the work is done"),
        (["runtime.threads=whole(1,2)"], r"runtime.threads: how the work is done"),
        (["launcher=pigeons"], "pigeons"),
    ],
)
def test_what_cannot_be_launched_is_told_before_anything_is_tried(
    noisy: Path, tmp_path: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        searched(noisy, tmp_path / "s", *overrides)
    assert not (tmp_path / "s").exists()


def test_processes_take_as_many_trials_as_the_threads_allow(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = jobs_here(monkeypatch)
    searched(noisy, tmp_path / "s", "launcher=processes", "launcher.cpus=2", "runtime.threads=5", trials=4)
    assert given == [2, 2, 1]


def test_trials_of_one_batch_keep_away_from_each_other() -> None:
    def drawn(at_once: int, *, running: int) -> float:
        study = optuna.create_study(direction="maximize")
        interval = {"x": optuna.distributions.FloatDistribution(0, 1)}
        for number in range(12):
            # The smaller the better.
            at = number / 12
            study.add_trial(optuna.create_trial(params={"x": at}, distributions=interval, value=-at))
        for _ in range(running):
            study.enqueue_trial({"x": 0.01})
            study.ask().suggest_float("x", 0, 1)
        study.sampler = sampler_of(optuna, "tpe", 5, at_once=at_once)
        return study.ask().suggest_float("x", 0, 1)

    alone = drawn(2, running=0)
    assert alone < 0.1
    assert drawn(2, running=3) > 0.1
    assert drawn(1, running=3) == alone
