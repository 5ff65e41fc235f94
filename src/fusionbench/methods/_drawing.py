"""How the inputs of several tasks are drawn for a step, and which of them fall to this process."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fusionbench.errors import NotAdaptable, NotFinite
from fusionbench.families import Batch
from fusionbench.tasks import Predictor, Split, Task
from fusionbench.training import Processes

Drawn = Mapping[str, Batch]
"""One batch of each task, or of those that fall to this process."""


def own_part(tasks: Mapping[str, Task], processes: Processes) -> dict[str, Task]:
    """Return the tasks of which this process has a part of each step's batch."""
    return {name: tasks[name] for place, name in enumerate(tasks) if processes.portion(place, len(tasks))}


def drawn_from(
    tasks: Mapping[str, Task], split: Split, *, size: int, seed: int, start: int, labels: bool
) -> Iterator[Drawn]:
    """Yield a batch of each task for ever, each task's in an order of its own.

    Args:
        tasks: by name.
        split: of which examples.
        size: examples of each task.
        seed: of the orders.
        start: how many such batches count as taken.
        labels: whether they are labelled.
    """
    drawn = {
        name: task.batches(split, size=size, seed=seed, start=start * size, labels=labels)
        for name, task in tasks.items()
    }
    while True:
        yield {name: next(of_task) for name, of_task in drawn.items()}


def check_adaptable(
    tasks: Mapping[str, Task], predictors: Mapping[str, Predictor], split: Split, device: torch.device
) -> None:
    """Ask every task for its objective once, so that what cannot be adapted is refused before anything long.

    Raises:
        NotAdaptable: with the task's reason.
        MissingData: where a task lacks the split.
    """
    if not tasks:
        raise NotAdaptable(
            "There are no tasks to adapt on. Adaptation needs a suite, or experts that name their tasks."
        )
    for name, task in tasks.items():
        first = next(task.batches(split, size=2, limit=2, labels=False))
        with torch.no_grad():
            task.objective(predictors[name], placed(first, device))


def finite_loss(loss: Tensor, what: str, fix: str) -> Tensor:
    """Return a loss that is a number.

    Args:
        loss: one number.
        what: it is, with the task's name.
        fix: what to do where it is none.

    Raises:
        NotFinite: where it is NaN or infinite.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NotFinite(f"{what} is {value}: its outputs are not finite. {fix}")
    return loss


def parts_of(batch: Batch, size: int | None) -> Iterator[tuple[Batch, float]]:
    """Yield a batch in parts of so many examples, each with its share of them."""
    count = len(next(iter(batch.values())))
    if size is None or size >= count:
        yield batch, 1.0
        return
    for first in range(0, count, size):
        last = min(first + size, count)
        yield {key: value[first:last] for key, value in batch.items()}, (last - first) / count


def placed(batch: Batch, device: torch.device) -> Batch:
    """Return a batch with its tensors on a device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
