"""Widening and subtracting, and weighted sums, in one pass, for kernels that need the compiler anyway.

Equal to `tiles` and to `combine` bit for bit.
"""

from typing import Any

import numpy as np

from fusionbench.kernels import Block
from fusionbench.kernels._compile import compiled

Raw = np.ndarray[Any, Any]
EXPONENT = 0x7F800000
STRIP = 1024
"""Entries that are widened and subtracted at a time."""


@compiled
def deltas_of_bf16(raw: Raw, base: Block, bits: Raw, out: Block) -> bool:
    """Fill `out` with the numbers of `raw` less `base`; tell whether all numbers were finite.

    `bits` is `out` seen as uint32: the pattern is put there first, then read as a number.
    """
    wild = np.uint32(0)
    # A strip of both arrays stays in the first-level cache between its two loops.
    for first in range(0, raw.shape[0], STRIP):
        pattern, origin = raw[first : first + STRIP], base[first : first + STRIP]
        strip, result = bits[first : first + STRIP], out[first : first + STRIP]
        for i in range(pattern.shape[0]):
            number = np.uint32(pattern[i]) << np.uint32(16)
            wild |= np.uint32((number & EXPONENT) == EXPONENT)
            strip[i] = number
        for i in range(pattern.shape[0]):
            result[i] = result[i] - origin[i]
    return bool(wild == 0)


@compiled
def weighted_sum(out: Block, inputs: Block, weights: Block) -> None:
    """Fill `out` with Σ wᵢ·inputsᵢ, in the experts' order; `inputs` stay as they are."""
    for first in range(0, out.shape[0], STRIP):
        total, strip, weight = out[first : first + STRIP], inputs[0, first : first + STRIP], weights[0]
        for i in range(total.shape[0]):
            total[i] = strip[i] * weight
        for row in range(1, inputs.shape[0]):
            strip, weight = inputs[row, first : first + STRIP], weights[row]
            for i in range(total.shape[0]):
                total[i] += strip[i] * weight
