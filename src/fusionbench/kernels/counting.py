"""Counting and trimming by float32 bit patterns: the inner loops of the selection."""

from typing import Any

import numpy as np

from fusionbench.kernels._compile import compiled

Counts = np.ndarray[Any, np.dtype[np.int64]]
Bits = np.ndarray[Any, np.dtype[np.uint32]]
MAGNITUDE = 0x7FFFFFFF
"""Mask of a float32's bits without the sign; what is left sorts like the magnitude."""


@compiled
def count_high(bits: Bits, counts: Counts) -> None:
    """Add each row's histogram of the magnitudes' upper 15 bits to `counts` `(rows, 2^15)`."""
    for row in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            counts[row, (bits[row, i] & MAGNITUDE) >> 16] += 1


@compiled
def count_low(bits: Bits, high: Bits, counts: Counts) -> None:
    """Add each row's histogram of the lower 16 bits, of the magnitudes whose upper ones are `high[row]`."""
    for row in range(bits.shape[0]):
        wanted = high[row]
        for i in range(bits.shape[1]):
            magnitude = bits[row, i] & MAGNITUDE
            if magnitude >> 16 == wanted:
                counts[row, magnitude & 0xFFFF] += 1


@compiled
def count_equal(bits: Bits, targets: Bits) -> Counts:
    """Return how many magnitudes of each row equal `targets[row]`."""
    counts = np.zeros(bits.shape[0], np.int64)
    for row in range(bits.shape[0]):
        target = targets[row]
        found = np.int32(0)
        for i in range(bits.shape[1]):
            found += np.int32((bits[row, i] & MAGNITUDE) == target)
        counts[row] = found
    return counts


@compiled
def trim_below(bits: Bits, targets: Bits, quota: Counts) -> None:
    """Zero the entries of each row below its target, and of those equal to it all but the first `quota[row]`.

    `bits` `(rows, entries)` are the entries' float32 patterns; a zero pattern is the number zero.
    """
    ties = count_equal(bits, targets)
    for row in range(bits.shape[0]):
        # Keeping none or all of the ties is one comparison, which the compiler runs on whole vectors.
        least = targets[row] + np.uint32(quota[row] <= 0)
        for i in range(bits.shape[1]):
            value = bits[row, i]
            bits[row, i] = value if (value & MAGNITUDE) >= least else np.uint32(0)
        if 0 < quota[row] < ties[row]:
            left = quota[row]
            for i in range(bits.shape[1]):
                if (bits[row, i] & MAGNITUDE) == targets[row]:
                    if left > 0:
                        left -= 1
                    else:
                        bits[row, i] = np.uint32(0)
