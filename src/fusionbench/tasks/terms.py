"""What a task's loss is the mean of, so that a batch which several processes divide is weighed as it is by one."""

from collections.abc import Callable

from torch import Tensor

from fusionbench.families import Batch
from fusionbench.training.processes import Processes

LABELS = "labels"


def examples_in(batch: Batch) -> int:
    """Return the number of a batch's examples."""
    return len(next(iter(batch.values())))


def terms_in(batch: Batch) -> int:
    """Return the number of terms of which `Task.loss` is the mean: examples, tokens that count, or pixels that count.

    Integer labels below 0 count nowhere (padding, pixels of no class), nor does a depth or a normal of 0.
    """
    labels = batch.get(LABELS)
    if not isinstance(labels, Tensor):
        return examples_in(batch)
    if not labels.is_floating_point():
        return int((labels >= 0).sum())
    return int((labels != 0).any(dim=-1).sum() if labels.ndim == 4 else (labels != 0).sum())


def part_and_share(
    processes: Processes, batch: Batch, number: int = 0, jobs: int = 1, count: Callable[[Batch], int] = terms_in
) -> tuple[Batch, float]:
    """Return this process's part of a batch, and its share of the mean over the whole batch; 0 where it has none.

    Args:
        processes: that divide it.
        batch: labelled.
        number: of the job that it belongs to; see `Processes.part_of`.
        jobs: how many there are.
        count: of what the loss is the mean.
    """
    part, portion = processes.part_of(batch, number, jobs)
    return part, portion if portion in (0.0, 1.0) else count(part) / max(count(batch), 1)
