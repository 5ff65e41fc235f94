"""In which order examples are read: as they lie, or in permutations that a run can take up again at any place."""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def permutation(task: str, count: int, *, seed: int, epoch: int) -> Indices:
    """Return the order of `count` examples in an epoch: a function of (seed, task, epoch), the same everywhere.

    The numbers are drawn from a counter-based bit generator and sorted, because NumPy keeps the streams of bit
    generators across its versions, but not those of `Generator.permutation`.
    """
    key = int.from_bytes(hashlib.sha256(f"{seed}/{task}/{epoch}".encode()).digest()[:16], "little")
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable").astype(np.int64)


def index_batches(task: str, count: int, *, size: int, seed: int | None = None, start: int = 0) -> Iterator[Indices]:
    """Yield the indices of one batch after another.

    Args:
        task: its name; two tasks of one seed are read in unrelated orders.
        count: examples in all, at least 1.
        size: examples a batch, at least 1.
        seed: None reads once in the data's order, the last batch being what is left; a number reads for ever, one
            permutation after another without a gap, so that every batch is full.
        start: examples to pass over.
    """
    if seed is None:
        for first in range(start, count, size):
            yield np.arange(first, min(first + size, count))
        return
    epoch, place = divmod(start, count)
    waiting = permutation(task, count, seed=seed, epoch=epoch)[place:]
    while True:
        while len(waiting) < size:
            epoch += 1
            waiting = np.concatenate([waiting, permutation(task, count, seed=seed, epoch=epoch)])
        yield waiting[:size]
        waiting = waiting[size:]
