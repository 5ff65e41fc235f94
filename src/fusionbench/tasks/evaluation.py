"""Score a fused model on a task: the one loop through which every number in a report goes."""

from typing import NamedTuple, Protocol

import numpy as np
import torch

from fusionbench.tasks.base import Predictor, Rows, Score, Split, Task


class HasPredictors(Protocol):
    """Anything that answers tasks: a fused model."""

    def for_task(self, task: Task) -> Predictor:
        """Return what predicts for a task."""
        ...


class Evaluation(NamedTuple):
    """Scores by metric, the task's primary one first, and the rows they were computed from (none if not kept)."""

    scores: dict[str, Score]
    rows: Rows


def evaluate(
    fused: HasPredictors,
    task: Task,
    split: Split = "test",
    *,
    batch: int = 256,
    limit: int | None = None,
    keep_rows: bool = False,
) -> Evaluation:
    """Return a fused model's scores on a split.

    Args:
        fused: the model.
        task: data, head and metrics.
        split: which examples.
        batch: examples that are run at a time; changes results by no more than rounding.
        limit: take only the first so many examples.
        keep_rows: whether to return the examples' statistics, one row each, in the data's order.

    Raises:
        MissingData: where the task has no such split.
        NotFinite: where the model's outputs mean nothing.
    """
    predict = fused.for_task(task)
    with torch.inference_mode():
        parts = [task.rows(predict, examples) for examples in task.batches(split, size=batch, limit=limit)]
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    count = len(next(iter(rows.values())))
    scores = {}
    for metric in task.metrics:
        value, stderr = metric.compute(rows)
        scores[metric.name] = Score(value, count, stderr)
    return Evaluation(scores, rows if keep_rows else {})
