"""One model scored by jobs of a launcher: the parts of its tasks together are what one process finds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusionbench.config import RuntimeConfig, SuiteConfig, TasksConfig
from fusionbench.errors import Interrupted, NotFinite, OutputError
from fusionbench.mixing import Skipped
from fusionbench.records import Report, find_runs
from fusionbench.run import divided, evaluate_model
from fusionbench.run.rows import read_rows
from launched_here import jobs_here

Evaluate = Callable[..., Report]
THREE = ["launcher=processes", "launcher.workers=3"]


@pytest.fixture
def evaluate(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Score the expert on cats in a folder of the test's own, with batches of four of its twelve examples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(divided, "BATCH", 4)

    def evaluated(*how: str, model: str = "cats", limit: int | None = None, out: Path | None = None) -> Report:
        divided._opened.cache_clear()
        asked = SuiteConfig(name=str(suite)), TasksConfig(limit=limit)
        return evaluate_model(str(suite.parent / model), *asked, runtime=RuntimeConfig.load(how), out=out)

    return evaluated


def test_parts_are_summed_exactly(evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = evaluate()
    assert not (tmp_path / "runs").exists()
    kept = evaluate(out=tmp_path / "kept")
    given = jobs_here(monkeypatch)
    assert evaluate(*THREE) == kept == plain
    # Two tasks of three batches each.
    assert given == [6]
    (folder,) = (tmp_path / "runs" / "evaluated").iterdir()
    for task in ("cats", "dogs"):
        whole, joined = (read_rows(place / "tasks" / f"{task}.parquet") for place in (tmp_path / "kept", folder))
        assert {name: column.tolist() for name, column in whole.items()} == {
            name: column.tolist() for name, column in joined.items()
        }
        assert len(next(iter(joined.values()))) == 12
    assert sorted(path.name for path in folder.iterdir()) == ["recipe.yaml", "report.json", "tasks"]
    assert [run.report for run in find_runs([tmp_path / "runs"])] == [plain]
    # What is finished is read.
    assert evaluate(*THREE) == plain
    assert given == [6]


def test_fewer_parts_where_there_are_fewer_workers_or_batches(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = jobs_here(monkeypatch)
    expected = evaluate(limit=5)
    assert evaluate("launcher=processes", "launcher.workers=9", limit=5) == expected
    assert evaluate("launcher=processes", "runtime.threads=4", "launcher.cpus=2") == evaluate()
    assert given == [4, 4]
    assert next(iter(expected.tasks["cats"].metrics.values())).n == 5


def test_a_stop_among_parts_keeps_what_is_done(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs_here(monkeypatch, stop_after=4)
    with pytest.raises(Interrupted, match="the same command goes on"):
        evaluate(*THREE)
    given = jobs_here(monkeypatch)
    assert evaluate(*THREE) == evaluate()
    assert given == [2]


def test_a_stopped_evaluation_goes_on_with_other_workers(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs_here(monkeypatch, stop_after=4)
    with pytest.raises(Interrupted):
        evaluate(*THREE)
    given = jobs_here(monkeypatch)
    # Two parts of each task are the first batch and the other two; of dogs the first was done.
    assert evaluate("launcher=processes", "launcher.workers=2") == evaluate()
    assert given == [3]


def test_a_part_that_fails_is_the_error_and_the_others_are_kept(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = divided.rows_of

    def failing(predict: Any, task: Any, split: Any, part: Any, **options: Any) -> Any:
        if (task.name, part.start) == ("cats", 4):
            raise NotFinite("the outputs are NaN")
        return real(predict, task, split, part, **options)

    monkeypatch.setattr(divided, "rows_of", failing)
    given = jobs_here(monkeypatch)
    with pytest.raises(NotFinite, match="the outputs are NaN"):
        evaluate(*THREE)
    monkeypatch.setattr(divided, "rows_of", real)
    assert evaluate(*THREE) == evaluate()
    # The jobs come last first, so that those of dogs and the last one of cats were done.
    assert given == [6, 2]


def test_a_folder_of_another_evaluation_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    report = evaluate(out=tmp_path / "kept")
    assert Report.load(tmp_path / "kept") == report
    for other in ({"model": "dogs"}, {"limit": 5}):
        # There is no --force here.
        with pytest.raises(OutputError, match=r"holds another run.* Choose another folder with --out\.$"):
            evaluate(out=tmp_path / "kept", **other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(OutputError, match="was not made by fusionbench"):
        evaluate(out=tmp_path / "mine")


def test_rows_of_an_earlier_attempt_are_not_made_again(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = jobs_here(monkeypatch)
    expected = evaluate(*THREE, out=tmp_path / "kept")
    (tmp_path / "kept" / "report.json").unlink()
    (tmp_path / "kept" / "tasks" / "dogs.parquet").unlink()
    assert evaluate(*THREE, out=tmp_path / "kept") == expected
    assert given == [6, 3]


def test_a_task_that_the_jobs_skip_leaves_no_rows(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def skipping(*arguments: Any, **options: Any) -> Any:
        raise Skipped("it has no head for it")

    monkeypatch.setattr(divided, "rows_of", skipping)
    # Only where the jobs look: this process, which says why a task is skipped, scores it.
    given = jobs_here(monkeypatch)
    assert evaluate(*THREE, out=tmp_path / "kept") == evaluate()
    assert given == [6]
    assert not (tmp_path / "kept" / "parts").exists()
