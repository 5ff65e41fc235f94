"""Widening and subtracting, weighted sums, and narrowing, each in one pass, compiled.

Equal to `tiles` and to `combine` bit for bit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fusionbench.kernels import Block
from fusionbench.kernels._compile import Pointers, compiled

Raw = np.ndarray[Any, Any]
EXPONENT = 0x7F800000
STRIP = 1024
"""Entries that are widened and subtracted at a time."""


def read_values(raws: Sequence[Raw], dtype: str, out: Block) -> bool:
    """Fill the rows of `out` with the numbers of each of `raws`; tell whether that was done, see `read_deltas`."""
    pointers = _pointers(raws) if dtype in VALUES else None
    return pointers is not None and VALUES[dtype](pointers, out.view(np.uint32), out)


def read_deltas(raws: Sequence[Raw], dtype: str, base: Block, out: Block) -> bool:
    """Fill the rows of `out` with the numbers of each of `raws` less `base`; tell whether that was done.

    It is not where a number is not finite, memory is not aligned, or there is no compiled form for `dtype`.

    Args:
        raws: bits of the numbers, `(entries,)` each, of one kind.
        dtype: what kind of number they are, as a header says it.
        base: `(entries,)`.
        out: `(models, entries)`.
    """
    pointers = _pointers(raws) if dtype in DELTAS else None
    return pointers is not None and DELTAS[dtype](pointers, base, out.view(np.uint32), out)


def write_bf16(values: Block, out: Raw) -> bool:
    """Fill `out` with `values` rounded to nearest, ties to even; tell whether all are finite, also when rounded."""
    return _to_bf16(values.view(np.uint32), out)


def _pointers(raws: Sequence[Raw]) -> Pointers | None:
    """Return where the numbers begin; None where they are not aligned."""
    addresses = np.array([raw.ctypes.data for raw in raws], np.uint64)
    # The compiler has no halves: their patterns are read.
    kind = np.dtype(np.uint16) if raws[0].dtype == np.float16 else raws[0].dtype
    return None if (addresses % kind.itemsize).any() else Pointers(addresses, kind)


@compiled
def _values_of_bf16(pointers: Any, bits: Raw, out: Block) -> bool:
    """See `read_values`; `bits` is `out` seen as uint32."""
    wild = np.uint32(0)
    for row in range(bits.shape[0]):
        raw, line = pointers[row], bits[row]
        for i in range(line.shape[0]):
            number = np.uint32(raw[i]) << np.uint32(16)
            wild |= np.uint32((number & EXPONENT) == EXPONENT)
            line[i] = number
    return bool(wild == 0)


@compiled
def _values_of_f16(pointers: Any, bits: Raw, out: Block) -> bool:
    """See `read_values`; fraction and exponent go where float32 has them, then the exponent's bias is mended."""
    wild, bias = np.uint32(0), np.float32(2.0**112)
    for row in range(bits.shape[0]):
        raw, line, numbers = pointers[row], bits[row], out[row]
        for i in range(line.shape[0]):
            pattern = np.uint32(raw[i])
            size = pattern & np.uint32(0x7FFF)
            wild |= np.uint32(size >= np.uint32(0x7C00))
            line[i] = (size << np.uint32(13)) | ((pattern & np.uint32(0x8000)) << np.uint32(16))
        for i in range(line.shape[0]):
            numbers[i] = numbers[i] * bias
    return bool(wild == 0)


@compiled
def _values_of_f32(pointers: Any, bits: Raw, out: Block) -> bool:
    """See `read_values`."""
    wild = np.uint32(0)
    for row in range(out.shape[0]):
        raw, line, pattern = pointers[row], out[row], bits[row]
        for i in range(line.shape[0]):
            line[i] = raw[i]
        for i in range(line.shape[0]):
            wild |= np.uint32((pattern[i] & EXPONENT) == EXPONENT)
    return bool(wild == 0)


@compiled
def _deltas_of_bf16(pointers: Any, base: Block, bits: Raw, out: Block) -> bool:
    """See `read_deltas`; `bits` is `out` seen as uint32: the pattern is put there first, then read as a number."""
    wild = np.uint32(0)
    # A strip of the base stays in the first-level cache for all models, one of the result between its two loops.
    for first in range(0, base.shape[0], STRIP):
        origin = base[first : first + STRIP]
        for row in range(out.shape[0]):
            raw = pointers[row]
            strip, result = bits[row, first : first + STRIP], out[row, first : first + STRIP]
            for i in range(origin.shape[0]):
                number = np.uint32(raw[first + i]) << np.uint32(16)
                wild |= np.uint32((number & EXPONENT) == EXPONENT)
                strip[i] = number
            for i in range(origin.shape[0]):
                result[i] = result[i] - origin[i]
    return bool(wild == 0)


@compiled
def _deltas_of_f16(pointers: Any, base: Block, bits: Raw, out: Block) -> bool:
    """See `read_deltas` and `_values_of_f16`."""
    fine = _values_of_f16(pointers, bits, out)
    for row in range(out.shape[0]):
        line = out[row]
        for i in range(line.shape[0]):
            line[i] = line[i] - base[i]
    return fine


@compiled
def _deltas_of_f32(pointers: Any, base: Block, bits: Raw, out: Block) -> bool:
    """See `read_deltas`."""
    wild = np.uint32(0)
    for first in range(0, base.shape[0], STRIP):
        origin = base[first : first + STRIP]
        for row in range(out.shape[0]):
            raw = pointers[row]
            strip, result = bits[row, first : first + STRIP], out[row, first : first + STRIP]
            for i in range(origin.shape[0]):
                result[i] = raw[first + i]
            for i in range(origin.shape[0]):
                wild |= np.uint32((strip[i] & EXPONENT) == EXPONENT)
            for i in range(origin.shape[0]):
                result[i] = result[i] - origin[i]
    return bool(wild == 0)


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


VALUES: dict[str, Callable[[Pointers, Raw, Block], bool]] = {
    "BF16": _values_of_bf16,
    "F16": _values_of_f16,
    "F32": _values_of_f32,
}
DELTAS: dict[str, Callable[[Pointers, Block, Raw, Block], bool]] = {
    "BF16": _deltas_of_bf16,
    "F16": _deltas_of_f16,
    "F32": _deltas_of_f32,
}


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
