"""`search` on the tiny suite, through the command line."""

import importlib
import json

import pytest

from fusionbench.errors import NotFinite
from fusionbench.records import Report
from fusionbench.suites import load_suite
from fusionbench.sweep import search

module = importlib.import_module("fusionbench.sweep.trials")
TINY = ["suite=mini/clip", "suite.size=tiny", "suite.experts=[mnist,land]", "tasks.limit=60"]
ASKED = [*TINY, "method=task_arithmetic", "method.scale=0.0,0.5,8.0"]


@pytest.fixture(autouse=True)
def built(cache, monkeypatch):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(cache))
    load_suite("mini/clip", size="tiny")


def test_it_selects_on_validation_and_scores_the_best_on_test_once(fusionbench, tmp_path):
    done = fusionbench("search", *ASKED, "--trials", 6, "--sampler", "random", "--out", tmp_path / "s", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["selected_on"] == "validation"
    assert len(found["trials"]) == 6
    values = {trial["overrides"][0]: trial["values"][0] for trial in found["trials"]}
    (best,) = {number: found["trials"][number] for number in found["best"]}.values()
    assert best["values"][0] == max(values.values())
    (folder,) = (path.parent for path in (tmp_path / "s/best").glob("*/report.json"))
    report = Report.load(folder / "report.json")
    assert report.selected_on.split == "validation"
    assert f"method.scale={report.method.params['scale']}" == best["overrides"][0]
    # The same parameters on the test split by an ordinary run give the same numbers.
    plain = fusionbench(
        "run", *TINY, "method=task_arithmetic", best["overrides"][0], "--out", tmp_path / "plain", "--json"
    )
    assert json.loads(plain.stdout)["tasks"] == json.loads((folder / "report.json").read_text())["tasks"]
    trials = sorted((tmp_path / "s/trials").glob("*/report.json"))
    assert len(trials) == len(values)


def test_an_interrupted_search_goes_on_and_repeats_nothing(tmp_path, monkeypatch):
    class Stop(KeyboardInterrupt):
        pass

    ran, real = [], module.run

    def stopping(recipe, **options):
        if recipe.tasks.split == "validation":
            if len(ran) == 2:
                raise Stop
            ran.append(recipe.method.params["scale"])
        return real(recipe, **options)

    asked = [*TINY, "method=task_arithmetic", "method.scale=interval(0,1)"]
    monkeypatch.setattr(module, "run", stopping)
    with pytest.raises(Stop):
        search(None, asked, tmp_path / "s", trials=4, sampler="random")
    monkeypatch.setattr(module, "run", real)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "s/trials").glob("*/report.json")}
    found = search(None, asked, tmp_path / "s", trials=4, sampler="random")
    assert [trial.error for trial in found.trials] == [None] * 4
    assert len({trial.overrides for trial in found.trials}) == 4
    assert len(made) == 2
    assert {path: path.stat().st_mtime_ns for path in made} == made


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NotFinite("the weights are broken"), "the weights are broken"),
        (RuntimeError("a bug"), "RuntimeError: a bug"),
    ],
)
def test_a_failed_trial_is_a_row_and_not_the_end(tmp_path, monkeypatch, error, said):
    real = module.run

    def failing(recipe, **options):
        if recipe.method.params["scale"] == 8.0:
            raise error
        return real(recipe, **options)

    monkeypatch.setattr(module, "run", failing)
    found = search(None, ASKED, tmp_path / "s", trials=8, sampler="random")
    failed = [trial for trial in found.trials if trial.error]
    assert failed
    assert all(trial.overrides == ("method.scale=8.0",) and trial.error == said for trial in failed)
    assert found.trials[found.best[0]].values
    rows = json.loads((tmp_path / "s/search.json").read_text())["trials"]
    assert [row["error"] for row in rows if row["error"]] == [said] * len(failed)


def test_several_objectives_give_the_trials_that_none_beats(tmp_path):
    asked = [*TINY, "method=weighted_average", "method.weights=each(0.01,1)"]
    found = search(None, asked, tmp_path / "s", trials=6, sampler="nsga2", objectives=("mnist", "land"))
    values = {trial.number: trial.values for trial in found.trials}
    for number in found.best:
        assert not any(
            all(a >= b for a, b in zip(other, values[number], strict=True)) and other != values[number]
            for other in values.values()
        )
    assert {result.folder.name for result in found.results} == {f"trial-{number}" for number in found.best}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*TINY, "method=task_arithmetic", "method.scale=0.3"], "nothing to search"),
        ([*ASKED, "--objective", "mnst"], "Did you mean mnist"),
        ([*ASKED, "tasks.split=validation"], "last run is on another split"),
        (["base=x", "experts.a=y", "method=task_arithmetic", "method.scale=0,1"], "add suite=NAME"),
        ([*TINY, "method=task_arithmetic", "method.skale=interval(0,1)"], "skale"),
    ],
)
def test_mistakes_are_told_before_anything_is_tried(arguments, said, tmp_path, fusionbench):
    found = fusionbench("search", *arguments, "--out", tmp_path / "s")
    assert found.returncode == 2
    assert said in found.stderr
    assert not (tmp_path / "s").exists()


def test_a_folder_of_another_search_is_refused(tmp_path, fusionbench):
    search(None, ASKED, tmp_path / "s", trials=1, sampler="random")
    other = fusionbench("search", *ASKED, "seed=3", "--trials", 1, "--sampler", "random", "--out", tmp_path / "s")
    assert other.returncode == 2
    assert "holds another search (other overrides)" in other.stderr


def test_evolution_over_coefficients_by_layer_is_a_search(tmp_path):
    """Merging by evolution (arXiv:2403.13187): CMA-ES over a gradient of the scale along the layers."""
    asked = [*TINY, "method=task_arithmetic", "method.scale=layers(0,1,3)"]
    found = search(None, asked, tmp_path / "s", trials=5, sampler="cmaes")
    drawn = [json.loads(trial.overrides[0].partition("value: ")[2].removesuffix("}]")) for trial in found.trials]
    assert all(len(points) == 3 and all(0 <= point <= 1 for point in points) for points in drawn)
    assert len({tuple(points) for points in drawn}) == 5
    best = found.trials[found.best[0]]
    assert best.values == (max(trial.values[0] for trial in found.trials),)
    (result,) = found.results
    # Blocks of the tiny encoder take the ends of the gradient.
    assert result.report.method.params["scale"] == [{"value": drawn[found.best[0]]}]
    assert result.report.selected_on.split == "validation"


def test_several_objectives_need_no_common_average_and_go_on_from_the_study(tmp_path):
    asked = [*TINY, "method=task_arithmetic", "method.scale=interval(0,1)"]
    first = search(None, asked, tmp_path / "s", trials=2, sampler="nsga2", objectives=("mnist", "land"))
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "s/trials").glob("*/report.json")}
    again = search(None, asked, tmp_path / "s", trials=4, sampler="nsga2", objectives=("mnist", "land"))
    assert again.trials[:2] == first.trials
    assert len(again.trials) == 4
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert (tmp_path / "s/study.db").read_bytes().startswith(b"SQLite format 3")


def test_the_final_runs_of_beaten_trials_go(tmp_path):
    asked = [*TINY, "method=task_arithmetic", "method.scale=8.0,0.3"]
    for trials in (1, 2, 3, 4, 5, 6):
        found = search(None, asked, tmp_path / "s", trials=trials, sampler="random")
        assert {path.name for path in (tmp_path / "s/best").iterdir() if path.is_dir()} == {f"trial-{found.best[0]}"}
    assert found.trials[found.best[0]].overrides == ("method.scale=0.3",)
