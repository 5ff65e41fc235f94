"""Counting and trimming by float32 bit patterns: the inner loops of the selection."""

from typing import Any

import numpy as np

from fusionbench.kernels._compile import compiled

Counts = np.ndarray[Any, np.dtype[np.int64]]
Bits = np.ndarray[Any, np.dtype[np.uint32]]
MAGNITUDE = 0x7FFFFFFF
"""Mask of a float32's bits without the sign; what is left sorts like the magnitude."""
STRIP = 1024
"""Entries that are counted and trimmed while they stay in the first-level cache."""
FEW = 128
"""Entries among which there is mostly none that needs a look of its own."""


@compiled
def count_high(bits: Bits, counts: Counts) -> None:
    """Add each row's histogram of the magnitudes' upper 15 bits to `counts` `(rows, 2^15)`."""
    for row in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            counts[row, (bits[row, i] & MAGNITUDE) >> 16] += 1


@compiled
def count_low(bits: Bits, high: Bits, counts: Counts) -> None:
    """Add the histogram of the lower 16 bits, of the magnitudes whose upper ones are `high[cut]`, to `counts[cut]`.

    There may be several cuts a row: cut c is one of row c modulo the number of rows.
    """
    for cut in range(high.shape[0]):
        row, wanted = cut % bits.shape[0], high[cut]
        for i in range(bits.shape[1]):
            magnitude = bits[row, i] & MAGNITUDE
            if magnitude >> 16 == wanted:
                counts[cut, magnitude & 0xFFFF] += 1


def count_window(bits: Bits, least: Bits, guess: Bits, most: Bits, above: Counts, window: Counts) -> Counts:
    """Count each row's magnitudes around a guess; return how many equal it.

    Args:
        bits: float32 patterns `(rows, entries)`.
        least: the smallest pattern of each row's window.
        guess: a pattern in it.
        most: the largest.
        above: how many lie above the window, added to.
        window: the histogram of those in it from `least` on, but for the guess, added to; `(rows, span)`.
    """
    equal = np.zeros(len(bits), np.int64)
    _count_window(bits, least, guess, most, above, window, equal)
    return equal


@compiled
def _count_window(
    bits: Bits, least: Bits, guess: Bits, most: Bits, above: Counts, window: Counts, equal: Counts
) -> None:
    for row in range(bits.shape[0]):
        low, middle, high = least[row], guess[row], most[row]
        for first in range(0, bits.shape[1], FEW):
            strip = bits[row, first : first + FEW]
            larger, same, inside = np.int32(0), np.int32(0), np.int32(0)
            for i in range(strip.shape[0]):
                magnitude = strip[i] & np.uint32(MAGNITUDE)
                larger += np.int32(magnitude > high)
                same += np.int32(magnitude == middle)
                inside += np.int32(magnitude >= low)
            above[row] += larger
            equal[row] += same
            # Few strips hold any: that is what makes one pass cheap.
            if inside - larger > same:
                for i in range(strip.shape[0]):
                    magnitude = strip[i] & np.uint32(MAGNITUDE)
                    if low <= magnitude and magnitude <= high and magnitude != middle:
                        window[row, magnitude - low] += 1


def count_equal(bits: Bits, targets: Bits, start: int = 0, stop: int | None = None) -> Counts:
    """Return how many magnitudes from `start` to `stop` equal each target.

    Target c is one of row c modulo the number of rows.
    """
    counts = np.zeros(len(targets), np.int64)
    _count_equal(bits, targets, start, bits.shape[1] if stop is None else min(stop, bits.shape[1]), counts)
    return counts


@compiled
def _count_equal(bits: Bits, targets: Bits, start: int, stop: int, counts: Counts) -> None:
    for cut in range(targets.shape[0]):
        part, target = bits[cut % bits.shape[0], start:stop], targets[cut]
        found = np.int32(0)
        for i in range(part.shape[0]):
            found += np.int32((part[i] & MAGNITUDE) == target)
        counts[cut] = found


@compiled
def _drop_ties(strip: Bits, target: int, left: int) -> None:
    """Zero the entries that equal `target`, all but the first `left`."""
    for i in range(strip.shape[0]):
        if (strip[i] & MAGNITUDE) == target:
            if left <= 0:
                strip[i] = np.uint32(0)
            left -= 1


@compiled
def trim_strip(strip: Bits, target: int, left: int) -> np.int32:
    """Zero a strip's entries below `target`, and of those equal to it all but the first `left`.

    Return how many equal it, or 0 where none of them stays.
    """
    # Keeping none or all of a strip's ties is one comparison, which the compiler runs on whole vectors.
    least, ties = target + np.uint32(left <= 0), np.int32(0)
    if left > 0:
        for i in range(strip.shape[0]):
            ties += np.int32((strip[i] & MAGNITUDE) == target)
        if ties > left:
            _drop_ties(strip, target, left)
    for i in range(strip.shape[0]):
        value = strip[i]
        strip[i] = value if (value & MAGNITUDE) >= least else np.uint32(0)
    return ties


@compiled
def trim_below(bits: Bits, targets: Bits, quota: Counts) -> None:
    """Zero the entries of each row below its target, and of those equal to it all but the first `quota[row]`.

    `bits` `(rows, entries)` are the entries' float32 patterns; a zero pattern is the number zero.
    """
    for row in range(bits.shape[0]):
        target, left = targets[row], quota[row]
        for first in range(0, bits.shape[1], STRIP):
            left -= trim_strip(bits[row, first : first + STRIP], target, left)


@compiled
def drop_above(bits: Bits, targets: Bits, quota: Counts) -> None:
    """Zero the entries of each row above its target, and of those equal to it the first `quota[row]`."""
    for row in range(bits.shape[0]):
        target, left = targets[row], quota[row]
        for i in range(bits.shape[1]):
            value = bits[row, i]
            bits[row, i] = value if (value & MAGNITUDE) <= target else np.uint32(0)
        if left > 0:
            for i in range(bits.shape[1]):
                if left > 0 and (bits[row, i] & MAGNITUDE) == target:
                    left -= 1
                    bits[row, i] = np.uint32(0)
