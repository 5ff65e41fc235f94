"""Between the bits of a file and float32: widening, narrowing with one rounding, and a look for NaN and Inf."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusionbench.kernels import Block

TILE = 1 << 18
"""Entries that are worked on at a time: so many that Python's cost a tile is small, so few that memory is."""
BLOCK = 1 << 20
"""Entries of one job; sums are taken in blocks of this size in float64, whatever the threads."""
WIDENED = frozenset({"BF16", "F16", "F32"})
"""Kinds that kernels take; others go through torch."""
LIMITS = {"F16": 65520.0, "BF16": 2.0**128 - 2.0**119}
"""The smallest numbers that round to infinity in kinds narrower than float32: half a step above the largest."""

Raw = np.ndarray[Any, Any]


def widen(raw: Raw, dtype: str, out: Block) -> None:
    """Fill `out` with the numbers whose bits are in `raw`; exact for every kind in `WIDENED`."""
    if dtype == "BF16":
        np.left_shift(raw, 16, out=out.view(np.uint32), dtype=np.uint32, casting="unsafe")
    else:
        np.copyto(out, raw)


def narrow(values: Block, dtype: str, out: Raw, scratch: Raw) -> None:
    """Fill `out` with `values` rounded to nearest, ties to even; `values` and `scratch` (uint32) are overwritten."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            np.copyto(out, values, casting="same_kind")
        return
    bits = values.view(np.uint32)
    np.right_shift(bits, 16, out=scratch)
    np.bitwise_and(scratch, 1, out=scratch)
    np.add(scratch, 0x7FFF, out=scratch)
    np.add(bits, scratch, out=bits)
    np.right_shift(bits, 16, out=bits)
    np.copyto(out, bits, casting="unsafe")


def fits(values: Block, dtype: str) -> bool:
    """Tell whether every entry is a number that `dtype` can hold once it is rounded: neither NaN nor too large."""
    limit = LIMITS.get(dtype, np.inf)
    # NaN goes through both and is below nothing.
    largest, least = np.maximum.reduce(values, initial=0), np.minimum.reduce(values, initial=0)
    return bool(largest < limit and least > -limit)


def is_finite(values: Block) -> bool:
    """Tell whether no entry is NaN or Inf."""
    return fits(values, "F32")


def row_width(shape: Sequence[int]) -> int:
    """Return the entries of one output: of a matrix's row, a convolution's filter, or a whole vector."""
    return math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
