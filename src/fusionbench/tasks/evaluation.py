"""Score a fused model on a task: the one loop through which every number in a report goes.

Rows, one an example, are made batch by batch, in this process or in several at once; scores are computed once, from all
rows in the data's order. Parts begin where a batch of the whole reading begins, so that each batch is the same however
the examples are divided, and with it every bit of its rows.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from fusionbench.families import Batch
from fusionbench.tasks.base import Predictor, Rows, Score, Split, Task
from fusionbench.training.processes import ALONE, Processes

BATCH = 256
"""Examples that are run at a time; where images are large, a task reads fewer."""


class HasPredictors(Protocol):
    """Anything that answers tasks: a fused model."""

    def for_task(self, task: Task) -> Predictor:
        """Return what predicts for a task."""
        ...


class Evaluation(NamedTuple):
    """Scores by metric, the task's primary one first, and the rows they were computed from (none if not kept)."""

    scores: dict[str, Score]
    rows: Rows


class Part(NamedTuple):
    """Examples of a split, from `start` to before `stop`; a stop of None is the end."""

    start: int = 0
    stop: int | None = None


WHOLE = Part()


def evaluate(
    fused: HasPredictors,
    task: Task,
    split: Split = "test",
    *,
    batch: int = BATCH,
    limit: int | None = None,
    keep_rows: bool = False,
    processes: Processes = ALONE,
) -> Evaluation:
    """Return a fused model's scores on a split.

    Args:
        fused: the model.
        task: data, head and metrics.
        split: which examples.
        batch: examples that are run at a time; changes results by no more than rounding.
        limit: take only the first so many examples.
        keep_rows: whether to return the examples' statistics, one row each, in the data's order.
        processes: that divide the examples; each returns the same bits as one would.

    Raises:
        MissingData: where the task has no such split.
        NotFinite: where the model's outputs mean nothing.
    """
    predict = fused.for_task(task)
    if processes.count == 1:
        rows = rows_of(predict, task, split, batch=batch, limit=limit)
    else:
        parts = parts_of_split(task, split, processes.count, batch=batch, limit=limit)
        own = parts[processes.rank : processes.rank + 1]
        made = [rows_of(predict, task, split, part, batch=batch, limit=limit) for part in own]
        rows = joined_rows([part for some in processes.gather(made) for part in some])
    return Evaluation(scores_of(task, rows), rows if keep_rows else {})


def check_readable(tasks: Iterable[Task], *splits: Split, limit: int | None = None) -> None:
    """Read the first example of splits of tasks, so that what is missing is told before anything long is done.

    A split that has to be prepared is prepared by this, once.

    Raises:
        MissingData: where a task has no such split, no example in it, or lacks a column.
        ConfigError: where a label is none of the task's.
    """
    for task in tasks:
        for split in splits:
            next(iter(task.batches(split, size=1, limit=limit)))


def rows_of(
    predict: Predictor,
    task: Task,
    split: Split,
    part: Part = WHOLE,
    *,
    batch: int = BATCH,
    limit: int | None = None,
) -> Rows:
    """Return the rows of some examples of a split, in the data's order.

    Args:
        predict: the model with the task's head.
        task: whose data.
        split: of which examples.
        part: which; it begins where a batch of the whole reading does.
        batch: examples that are run at a time.
        limit: take only the first so many examples of the split.

    Raises:
        MissingData: where the task has no such split.
        NotFinite: where the model's outputs mean nothing.
    """
    with torch.inference_mode():
        read = _batches(task, split, part, batch, limit)
        return joined_rows([task.rows(predict, examples) for examples in read])


def _batches(task: Task, split: Split, part: Part, size: int, limit: int | None) -> Iterator[Batch]:
    if part == WHOLE:
        return task.batches(split, size=size, limit=limit)
    last = limit if part.stop is None else part.stop
    return task.batches(split, size=size, start=part.start, limit=last)


def parts_of_split(task: Task, split: Split, count: int, *, batch: int = BATCH, limit: int | None = None) -> list[Part]:
    """Return `count` parts of a split of nearly as many batches each, or fewer parts where there are fewer batches.

    A task whose one batch stands for all examples is one part: those of the LM Evaluation Harness, which reads and runs
    them itself.

    Raises:
        MissingData: where the task has no such split, or nothing in it.
    """
    first = next(task.batches(split, size=batch, limit=limit))
    held = [value for value in first.values() if isinstance(value, Tensor)]
    if not held:
        return [WHOLE]
    size = len(held[0])
    examples = task.size(split) if limit is None else min(limit, task.size(split))
    blocks = -(-examples // size)
    count = min(count, blocks)
    edges = [min(blocks * number // count * size, examples) for number in range(count + 1)]
    return [Part(first, last) for first, last in itertools.pairwise(edges)]


def joined_rows(parts: Sequence[Rows]) -> Rows:
    """Return rows of several parts as one, in the order given."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def scores_of(task: Task, rows: Rows) -> dict[str, Score]:
    """Return a task's scores by metric, computed from the rows of all its examples."""
    count = len(next(iter(rows.values())))
    found = {}
    for metric in task.metrics:
        value, stderr = metric.compute(rows)
        found[metric.name] = Score(value, count, stderr)
    return found
