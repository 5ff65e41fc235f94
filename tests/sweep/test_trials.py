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


@pytest.mark.parametrize("how", [THREE, ["runtime.threads=1"]])
@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "nsga2"])
def test_a_search_that_dies_while_it_draws_ends_as_if_it_had_not(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, how: list[str]
) -> None:
    jobs_here(monkeypatch)
    whole = searched(noisy, tmp_path / "whole", *how, trials=5, sampler=sampler)
    real, kept = optuna.trial.Trial.set_user_attr, []

    def dying(trial: Any, key: str, value: Any) -> None:
        # The trial has drawn its numbers, and nothing says yet what they make of the recipe.
        kept.append(key)
        if len(kept) == 4:
            raise KeyboardInterrupt
        real(trial, key, value)

    monkeypatch.setattr(optuna.trial.Trial, "set_user_attr", dying)
    with pytest.raises(KeyboardInterrupt):
        searched(noisy, tmp_path / "broken", *how, trials=5, sampler=sampler)
    monkeypatch.setattr(optuna.trial.Trial, "set_user_attr", real)
    found = searched(noisy, tmp_path / "broken", *how, trials=5, sampler=sampler)
    assert (found.trials, found.best) == (whole.trials, whole.best)


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "nsga2"])
def test_a_search_trial_by_trial_that_is_stopped_in_one_ends_as_if_it_had_not_been(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    trials = importlib.import_module("fusionbench.sweep.trials")
    real, ran = trials.run, []
    whole = searched(noisy, tmp_path / "whole", trials=5, sampler=sampler)

    def stopping(recipe: Any, **options: Any) -> Any:
        ran.append(recipe)
        if len(ran) == 4:
            raise Interrupted("Ctrl-C")
        return real(recipe, **options)

    monkeypatch.setattr(trials, "run", stopping)
    with pytest.raises(Interrupted):
        searched(noisy, tmp_path / "broken", trials=5, sampler=sampler)
    found = searched(noisy, tmp_path / "broken", trials=5, sampler=sampler)
    # The fourth is done over; those before are not.
    assert ran[4].method == ran[3].method
    assert len(ran) == 6
    assert (found.trials, found.best) == (whole.trials, whole.best)
    assert all(trial.values for trial in found.trials)


def test_a_search_may_go_on_in_one_process_with_what_was_drawn_for_several(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs_here(monkeypatch, stop_after=0)
    with pytest.raises(Interrupted):
        searched(noisy, tmp_path / "s", *THREE, trials=3)
    found = searched(noisy, tmp_path / "s", trials=3)
    jobs_here(monkeypatch)
    assert found.trials == searched(noisy, tmp_path / "whole", *THREE, trials=3).trials


def test_a_trial_of_the_study_that_has_no_draws_is_a_row(noisy: Path, tmp_path: Path) -> None:
    searched(noisy, tmp_path / "s", trials=1)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 's' / 'study.db'}")
    study.ask()
    found = searched(noisy, tmp_path / "s", trials=3)
    assert [trial.error for trial in found.trials] == [None, "interrupted", None]


def test_searches_of_neighbouring_seeds_share_no_draw(noisy: Path, tmp_path: Path) -> None:
    asked = [f"suite={noisy}", "tasks.limit=1", "method=task_arithmetic", "method.scale=interval(0,2)"]
    drawn = [
        trial.overrides
        for seed in range(3)
        for trial in search(None, [*asked, f"seed={seed}"], tmp_path / f"{seed}", trials=3, sampler="random").trials
    ]
    assert len(set(drawn)) == 9


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
