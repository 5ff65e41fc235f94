"""Exact order statistics of a stream that is never held: histograms of float32 patterns that sort like the numbers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np

from fusionbench.errors import ConfigError

Floats = np.ndarray[Any, np.dtype[np.float32]]
Keys = np.ndarray[Any, np.dtype[np.uint32]]
Counts = np.ndarray[Any, np.dtype[np.int64]]
BINS = 1 << 16
SIGN = 1 << 31


def order_statistics(read: Callable[[], Iterator[Floats]], ranks: Callable[[int], Sequence[int]]) -> Floats:
    """Return the entries of given ranks of each row, `(rows, ranks)`, in two passes.

    Args:
        read: starts a pass over blocks `(rows, entries)` of one number of rows.
        ranks: from the number of entries of a row, which are wanted; 0 is the smallest.
    """
    high = _histogram(read, lambda keys, _: _upper(keys), 1)[:, 0]
    size = int(high.sum()) // max(len(high), 1)
    if not size:
        return np.zeros((len(high), len(ranks(1))), np.float32)
    wanted = np.array(ranks(size), np.int64)
    upper, before = _bins(high[:, None, :].repeat(len(wanted), 1), np.broadcast_to(wanted, (len(high), len(wanted))))

    def lower(keys: Keys, place: tuple[int, int]) -> Keys:
        chosen: Keys = keys[_upper(keys) == np.uint32(upper[place])] & np.uint32(BINS - 1)
        return chosen

    low, _ = _bins(_histogram(read, lower, len(wanted)), wanted - before)
    keys = (upper.astype(np.uint32) << np.uint32(16)) | low.astype(np.uint32)
    patterns = np.where(keys >= SIGN, keys ^ np.uint32(SIGN), ~keys)
    return patterns.astype(np.uint32).view(np.float32)


def one_for_all(at: Mapping[str, Mapping[str, Any]], name: str) -> Any:
    """Return the value that a parameter has in every tensor; 1 where there is no tensor.

    Raises:
        ConfigError: where it differs.
    """
    values = {own[name] for own in at.values()}
    if len(values) > 1:
        raise ConfigError(
            f"method.{name} is {', '.join(map(str, sorted(values)))} in different tensors, but the entries of all "
            "tensors are ranked together here. Give one value for the whole model."
        )
    return values.pop() if values else 1.0


def rank_below(share: float, size: int) -> int:
    """Return ⌊share·size⌋ without the rounding of binary fractions, at most the last rank."""
    return min(floor(Fraction(repr(float(share))) * size), size - 1)


def rank_above(share: float, size: int) -> int:
    """Return ⌊(1 − share)·size⌋ likewise."""
    return size - ceil(Fraction(repr(float(share))) * size)


def _keys(block: Floats) -> Keys:
    """Return unsigned patterns that sort like the numbers."""
    bits = np.ascontiguousarray(block).view(np.uint32)
    keys: Keys = np.where(bits >= SIGN, ~bits, bits | np.uint32(SIGN))
    return keys


def _upper(keys: Keys) -> Keys:
    digits: Keys = keys >> np.uint32(16)
    return digits


def _histogram(
    read: Callable[[], Iterator[Floats]], digit: Callable[[Keys, tuple[int, int]], Keys], columns: int
) -> Counts:
    """Return `(rows, columns, bins)` counts of a digit of every entry, which each column may choose for itself."""
    total = np.zeros((0, columns, BINS), np.int64)
    for block in read():
        if not len(total):
            total = np.zeros((len(block), columns, BINS), np.int64)
        for row, entries in enumerate(block):
            keys = _keys(entries)
            for column in range(columns):
                total[row, column] += np.bincount(digit(keys, (row, column)), minlength=BINS)
    return total


def _bins(counts: Counts, wanted: Counts) -> tuple[Counts, Counts]:
    """Return for each histogram the bin that holds the entry of the wanted rank, and how many entries lie before it."""
    ends = counts.cumsum(-1)
    found = (ends <= wanted[..., None]).sum(-1)
    return found, np.take_along_axis(ends - counts, found[..., None], -1)[..., 0]
