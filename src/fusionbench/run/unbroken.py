"""Rows of a long task, kept part by part as they are made: a scoring that was stopped goes on inside of the task."""

import logging
from pathlib import Path

from torch import Tensor

from fusionbench.run.rows import read_rows, write_rows
from fusionbench.tasks import Predictor, Task
from fusionbench.tasks.base import Rows, Split
from fusionbench.tasks.evaluation import Part, joined_rows, parts_of_split, rows_of

SHORT = 1024
"""Examples of a task that is made anew as a whole: to keep parts of it would cost more."""
BATCHES = 8
"""Batches of a part, which is what a stop costs at most."""
logger = logging.getLogger(__name__)


def rows_in_parts(predict: Predictor, task: Task, split: Split, place: Path, *, limit: int | None = None) -> Rows:
    """Return the rows of a split as `rows_of` does, bit for bit; parts that an earlier call kept are read.

    Args:
        predict: the model with the task's head.
        task: whose data.
        split: of which examples.
        place: folder of the parts, which the caller removes when the rows are kept as a whole.
        limit: take only the first so many examples of the split.

    Raises:
        MissingData: where the task has no such split.
        NotFinite: where the model's outputs mean nothing.
    """
    parts = _parts(task, split, limit)
    if len(parts) == 1:
        return rows_of(predict, task, split, limit=limit)
    place.mkdir(parents=True, exist_ok=True)
    found = []
    for part in parts:
        file = place / f"{part.start}-{part.stop}.parquet"
        kept = _kept(file)
        if kept is None:
            kept = rows_of(predict, task, split, part, limit=limit)
            write_rows(file, dict(kept))
        found.append(kept)
    return joined_rows(found)


def _parts(task: Task, split: Split, limit: int | None) -> list[Part]:
    """Return parts of some batches each; one where the task is short, or its one batch stands for all examples."""
    first = next(task.batches(split, size=1, limit=limit))
    if not any(isinstance(value, Tensor) for value in first.values()):
        return [Part()]
    examples = task.size(split) if limit is None else min(limit, task.size(split))
    if examples <= SHORT:
        return [Part()]
    single = parts_of_split(task, split, examples, limit=limit)
    groups = [single[at : at + BATCHES] for at in range(0, len(single), BATCHES)]
    return [Part(group[0].start, group[-1].stop) for group in groups]


def _kept(file: Path) -> Rows | None:
    if not file.is_file():
        return None
    try:
        return read_rows(file)
    except (ValueError, OSError) as error:
        logger.warning("%s is damaged and is made again: %s", file, error)
        return None
