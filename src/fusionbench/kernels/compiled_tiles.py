"""Widening and subtracting, weighted sums, and narrowing, each in one pass, compiled.

Equal to `tiles` and to `combine` bit for bit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fusionbench.kernels import Block
from fusionbench.kernels._compile import Pointers, compiled, pointers_to

Raw = np.ndarray[Any, Any]
EXPONENT = 0x7F800000
STRIP = 1024
"""Entries that are widened and worked on at a time, so that those of many models stay in the first-level cache."""
KINDS = {"BF16": 0, "F16": 1, "F32": 2}
"""How the compiled loops call the kinds of number that they read."""


class Bits(NamedTuple):
    """The numbers of some entries as files have them: where each model's begin, and their kind (`KINDS`)."""

    pointers: Pointers
    kind: int


def bits_of(raws: Sequence[Raw], dtype: str) -> Bits | None:
    """Return where the numbers of `raws` begin; None where they are not aligned, or `dtype` has no compiled form.

    Args:
        raws: bits of the numbers, `(entries,)` each, of one kind.
        dtype: what kind of number they are, as a header says it.
    """
    if dtype not in KINDS:
        return None
    # The compiler has no halves: their patterns are read.
    kind = np.dtype(np.uint16) if raws[0].dtype == np.float16 else raws[0].dtype
    pointers = pointers_to(raws, kind)
    return None if (pointers.addresses % kind.itemsize).any() else Bits(pointers, KINDS[dtype])


def read_values(raws: Sequence[Raw], dtype: str, out: Block) -> bool:
    """Fill the rows of `out` with the numbers of each of `raws`; tell whether that was done, see `read_deltas`."""
    found = bits_of(raws, dtype)
    return found is not None and _read_values(*found, out.view(np.uint32), out)


def read_deltas(raws: Sequence[Raw], dtype: str, base: Block, out: Block) -> bool:
    """Fill the rows of `out` with the numbers of each of `raws` less `base`; tell whether that was done.

    It is not where a number is not finite, memory is not aligned, or there is no compiled form for `dtype`.

    Args:
        raws: bits of the numbers, `(entries,)` each, of one kind.
        dtype: what kind of number they are, as a header says it.
        base: `(entries,)`.
        out: `(models, entries)`.
    """
    found = bits_of(raws, dtype)
    return found is not None and _read_deltas(*found, base, out.view(np.uint32), out)


def write_bf16(values: Block, out: Raw) -> bool:
    """Fill `out` with `values` rounded to nearest, ties to even; tell whether all are finite, also when rounded."""
    return _to_bf16(values.view(np.uint32), out)


@compiled
def widen_strip(raw: Any, first: int, kind: int, bits: Raw, out: Block) -> np.uint32:
    """Fill `out` with the numbers of `raw` from its entry `first` on; return 0 where all are finite.

    `bits` is `out` seen as uint32: patterns are put there, then read as numbers.
    """
    wild, bias = np.uint32(0), np.float32(2.0**112)
    if kind == 0:
        for i in range(bits.shape[0]):
            number = np.uint32(raw[first + i]) << np.uint32(16)
            wild |= np.uint32((number & EXPONENT) == EXPONENT)
            bits[i] = number
    elif kind == 1:
        # Fraction and exponent go where float32 has them, then the exponent's bias is mended.
        for i in range(bits.shape[0]):
            pattern = np.uint32(raw[first + i])
            size = pattern & np.uint32(0x7FFF)
            wild |= np.uint32(size >= np.uint32(0x7C00))
            bits[i] = (size << np.uint32(13)) | ((pattern & np.uint32(0x8000)) << np.uint32(16))
        for i in range(bits.shape[0]):
            out[i] = out[i] * bias
    else:
        for i in range(bits.shape[0]):
            out[i] = raw[first + i]
        for i in range(bits.shape[0]):
            wild |= np.uint32((bits[i] & EXPONENT) == EXPONENT)
    return np.uint32(wild)


@compiled
def _read_values(pointers: Any, kind: int, bits: Raw, out: Block) -> bool:
    wild = np.uint32(0)
    for row in range(out.shape[0]):
        for first in range(0, out.shape[1], STRIP):
            stop = first + STRIP
            wild |= widen_strip(pointers[row], first, kind, bits[row, first:stop], out[row, first:stop])
    return bool(wild == 0)


@compiled
def _read_deltas(pointers: Any, kind: int, base: Block, bits: Raw, out: Block) -> bool:
    wild = np.uint32(0)
    # A strip of the base stays in the first-level cache for all models.
    for first in range(0, base.shape[0], STRIP):
        stop = first + STRIP
        for row in range(out.shape[0]):
            strip = out[row, first:stop]
            wild |= widen_strip(pointers[row], first, kind, bits[row, first:stop], strip)
            less(strip, base[first:stop])
    return bool(wild == 0)


@compiled
def less(strip: Block, origin: Block) -> None:
    """Subtract `origin` from a strip."""
    for i in range(strip.shape[0]):
        strip[i] = strip[i] - origin[i]


@compiled
def delta_strip(pointers: Any, kind: int, first: int, count: int, bits: Raw, out: Block) -> np.uint32:
    """Fill the first `count` columns of `out` with entries from `first` on; return 0 where all numbers are finite.

    Row 0 is the base's, the others are the models' less these. `bits` is `out` seen as uint32.
    """
    wild = np.uint32(0)
    for row in range(out.shape[0]):
        wild |= widen_strip(pointers[row], first, kind, bits[row, :count], out[row, :count])
        if row > 0:
            less(out[row, :count], out[0, :count])
    return np.uint32(wild)


@compiled
def _to_bf16(bits: Raw, out: Raw) -> bool:
    """See `write_bf16`; `bits` are the values' patterns."""
    wild = np.uint32(0)
    for i in range(bits.shape[0]):
        number = bits[i]
        rounded = (number + np.uint32(0x7FFF) + ((number >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFFFFFF)
        wild |= np.uint32((number & EXPONENT) == EXPONENT) | np.uint32((rounded & EXPONENT) == EXPONENT)
        out[i] = rounded >> np.uint32(16)
    return bool(wild == 0)


@compiled
def weighted_sum(out: Block, inputs: Block, weights: Block) -> None:
    """Fill `out` with Σ wᵢ·inputsᵢ, in the experts' order; `inputs` stay as they are."""
    for first in range(0, out.shape[0], STRIP):
        sum_strip(out[first : first + STRIP], inputs, first, weights)


@compiled
def sum_strip(total: Block, inputs: Block, first: int, weights: Block) -> None:
    """Fill `total` with Σ wᵢ·inputsᵢ of the columns from `first` on."""
    count = total.shape[0]
    strip, weight = inputs[0, first : first + count], weights[0]
    for i in range(count):
        total[i] = strip[i] * weight
    for row in range(1, inputs.shape[0]):
        strip, weight = inputs[row, first : first + count], weights[row]
        for i in range(count):
            total[i] += strip[i] * weight
