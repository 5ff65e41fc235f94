"""What a recipe speaks of: the records of the experts among it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError
from fusionbench.run import resolve, run

Make = Callable[..., Recipe]


def record(suite: Path, expert: str, content: object) -> None:
    (suite.parent / expert / "fusionbench.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )


def test_results_are_compared_to_the_primary_metric_of_the_records(recipe: Make, tmp_path: Path) -> None:
    """The records name the loss first; the tasks' primary metric is the accuracy, .5 in each."""
    report = run(recipe("simple_average"), out=tmp_path / "run").report
    values = [report.tasks[task].value for task in ("cats", "dogs")]
    assert report.variants[0].normalized == pytest.approx(sum(value / 0.5 for value in values if value is not None) / 2)
    assert report.inputs["individual"].startswith("sha256:")


def test_a_changed_record_is_another_run(recipe: Make, suite: Path) -> None:
    first = resolve(recipe("simple_average")).identity()
    assert resolve(recipe("simple_average")).identity() == first
    record(suite, "dogs", {"scores": {"dogs": {"test": {"loss": 9.0, "accuracy": 0.75}}}})
    assert resolve(recipe("simple_average")).identity() != first


def test_records_of_what_is_not_scored_do_not_count(recipe: Make, suite: Path) -> None:
    def identity(*overrides: str) -> str:
        return resolve(recipe("simple_average", *overrides)).identity()

    before = [identity("tasks=[cats]"), identity("tasks.limit=4"), identity("tasks.split=validation")]
    record(suite, "dogs", {"scores": {"dogs": {"test": {"accuracy": 0.75}}}})
    assert [identity("tasks=[cats]"), identity("tasks.limit=4"), identity("tasks.split=validation")] == before
    assert resolve(recipe("simple_average", "tasks.limit=4")).recorded == {}


@pytest.mark.parametrize("content", ['{"scores": {', "[1]", {"scores": {"dogs": {"test": {"accuracy": "good"}}}}])
def test_a_damaged_record_is_one_clear_error(recipe: Make, suite: Path, content: object) -> None:
    record(suite, "dogs", content)
    with pytest.raises(CheckpointError, match=r"fusionbench\.json is damaged.*remove that file"):
        resolve(recipe("simple_average"))


def test_a_score_that_is_no_number_leaves_the_normalised_one_out(recipe: Make, suite: Path, tmp_path: Path) -> None:
    record(suite, "dogs", {"scores": {"dogs": {"test": {"accuracy": None}}}})
    assert run(recipe("simple_average"), out=tmp_path / "run").report.variants[0].normalized is None
