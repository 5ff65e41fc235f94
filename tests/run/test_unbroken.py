"""A long task that is stopped is gone on with where it stopped, and its rows are those of an unbroken reading."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fusionbench.config import Recipe
from fusionbench.errors import Interrupted
from fusionbench.families import Batch
from fusionbench.run import run, unbroken
from fusionbench.run.unbroken import rows_in_parts
from fusionbench.tasks import ImageTask, Predictor
from fusionbench.tasks.evaluation import parts_of_split, rows_of

Make = Callable[..., Recipe]


class Numbers:
    """A task of a hundred examples whose rows tell the batch that they were in; it counts batches."""

    name = "numbers"
    held: tuple[str, ...] = ("number",)

    def __init__(self, stop_at: int | None = None) -> None:
        self.scored: list[int] = []
        self.stop_at = stop_at

    def size(self, split: str) -> int:
        return 100

    def batches(self, split: str, *, size: int, start: int = 0, limit: int | None = None) -> Iterator[Batch]:
        count, size = min(limit or 100, 100), min(size, 3)
        for first in range(start, count, size):
            yield {"number": torch.arange(first, min(first + size, count))}

    def rows(self, predict: Predictor, batch: Batch) -> dict[str, np.ndarray]:
        first = int(batch["number"][0])
        if self.stop_at is not None and first >= self.stop_at:
            raise KeyboardInterrupt
        self.scored.append(first)
        return {"number": batch["number"].numpy(), "batch": np.full(len(batch["number"]), first)}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unbroken, "SHORT", 10)
    monkeypatch.setattr(unbroken, "BATCHES", 4)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("limit", [None, 71])
def test_what_was_kept_is_not_scored_again_and_the_rows_are_those_of_one_reading(
    tmp_path: Path, limit: int | None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        rows_in_parts(None, Numbers(stop_at=40), "test", tmp_path, limit=limit)
    # Parts of four batches of three: three of them were whole.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-12.parquet", "12-24.parquet", "24-36.parquet"]
    (tmp_path / "12-24.parquet").write_bytes(b"half a file")
    task = Numbers()
    found = rows_in_parts(None, task, "test", tmp_path, limit=limit)
    assert task.scored == [*range(12, 24, 3), *range(36, limit or 100, 3)]
    expected = rows_of(None, Numbers(), "test", limit=limit)
    assert {name: column.tolist() for name, column in found.items()} == {
        name: column.tolist() for name, column in expected.items()
    }


@pytest.mark.parametrize("limit", [None, 9])
def test_a_short_task_leaves_no_parts(tmp_path: Path, limit: int | None) -> None:
    rows = rows_in_parts(None, Numbers(), "test", tmp_path / "parts", limit=limit)
    assert rows["number"].tolist() == list(range(limit or 100))
    assert not (tmp_path / "parts").exists()


@pytest.mark.usefixtures("short")
def test_a_task_whose_one_batch_stands_for_all_is_never_cut(tmp_path: Path) -> None:
    class Harness(Numbers):
        def batches(self, split: str, *, size: int, start: int = 0, limit: int | None = None) -> Iterator[Batch]:
            yield {"limit": limit}

        def rows(self, predict: Predictor, batch: Batch) -> dict[str, np.ndarray]:
            return {"score": np.ones(100)}

    assert len(rows_in_parts(None, Harness(), "test", tmp_path / "parts")["score"]) == 100
    assert not (tmp_path / "parts").exists()


def test_a_run_that_is_stopped_inside_a_task_goes_on_there(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unbroken, "SHORT", 4)
    monkeypatch.setattr(unbroken, "BATCHES", 1)
    for function in (parts_of_split, rows_of):
        monkeypatch.setattr(unbroken, function.__name__, partial(function, batch=5))
    whole = run(recipe("task_arithmetic"), out=tmp_path / "whole").report
    real, calls = ImageTask.rows, []

    def stopping(task: ImageTask, predict: Predictor, batch: Batch) -> object:
        calls.append(task.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(task, predict, batch)

    monkeypatch.setattr(ImageTask, "rows", stopping)
    with pytest.raises(Interrupted):
        run(recipe("task_arithmetic"), out=tmp_path / "run")
    assert run(recipe("task_arithmetic"), out=tmp_path / "run").report == whole
    # Twelve examples a task: three batches of cats, two of dogs, of which the second is broken off and made again.
    assert calls == ["cats"] * 3 + ["dogs"] * 4
    assert sorted(path.name for path in (tmp_path / "run" / "tasks").iterdir()) == ["cats.parquet", "dogs.parquet"]
