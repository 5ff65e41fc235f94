"""A prepared split and the order in which its examples are read: what every kind of task says of its data."""

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

from fusionbench.errors import MissingData
from fusionbench.tasks.base import Split
from fusionbench.tasks.order import Indices, index_batches


class Counted(Protocol):
    """A split whose size is known without reading it."""

    @property
    def count(self) -> int:
        """Number of examples."""
        ...


D = TypeVar("D", bound=Counted)


def split_of(name: str, data: Mapping[Split, D], split: Split) -> D:
    """Return a split of a task.

    Args:
        name: of the task.
        data: the splits that there are.
        split: which.

    Raises:
        MissingData: where the task has no such split, with those that it has.
    """
    if split not in data:
        raise MissingData(f"The task {name} has no split {split!r}. It has: {', '.join(data) or 'none'}.")
    return data[split]


def reading(
    name: str, split: Split, count: int, *, size: int, seed: int | None, start: int, limit: int | None
) -> Iterator[Indices]:
    """Return the indices of one batch of a split after another; the arguments are those of `Task.batches`.

    Args:
        name: of the task; two tasks of one seed are read in unrelated orders.
        split: for messages.
        count: examples of the split.
        size: examples a batch.
        seed: None reads once, a number for ever.
        start: examples to pass over.
        limit: take only the first so many examples.

    Raises:
        MissingData: where there is nothing to read; at once, not when the first batch is asked for.
    """
    taken = count if limit is None else min(limit, count)
    if taken < 1:
        raise MissingData(f"The task {name} has no examples in the split {split!r} (limit: {limit}).")
    return index_batches(name, taken, size=size, seed=seed, start=start)
