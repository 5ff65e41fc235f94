"""Runs of suites made once more: adaptation and statistics give the same results, and a changed row is told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.config import Recipe
from fusionbench.run import run
from fusionbench.run.again import remake_run

Make = Callable[..., Recipe]


@pytest.mark.parametrize(
    "asked",
    [
        ("adamerging", "method.steps=2", "method.batch=4", "method.batches=1", "method.checkpoint_every=1"),
        ("fisher", "method.examples=4"),
        ("simple_ensemble",),
    ],
)
def test_a_run_of_a_suite_is_the_same_once_more_and_a_changed_file_is_told(
    asked: tuple[str, ...], recipe: Make, tmp_path: Path
) -> None:
    folder = run(recipe(*asked), out=tmp_path / "runs" / "one").folder
    assert remake_run(folder) == ()
    assert [path.name for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")] == ["one"]
    rows = folder / "tasks" / "cats.parquet"
    rows.write_bytes(rows.read_bytes() + b"0")
    assert remake_run(folder) == ("tasks/cats.parquet came out otherwise",)
