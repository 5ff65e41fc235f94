"""Widening and subtracting in one pass, for kernels that need the compiler anyway; equal to `tiles` bit for bit."""

from typing import Any

import numpy as np

from fusionbench.kernels import Block
from fusionbench.kernels._compile import compiled

Raw = np.ndarray[Any, Any]
EXPONENT = 0x7F800000


@compiled
def deltas_of_bf16(raw: Raw, base: Block, bits: Raw, out: Block) -> bool:
    """Fill `out` with the numbers of `raw` less `base`; tell whether all numbers were finite.

    `bits` is `out` seen as uint32: the pattern is put there first, then read as a number.
    """
    wild = np.uint32(0)
    for i in range(raw.shape[0]):
        pattern = np.uint32(raw[i]) << np.uint32(16)
        wild |= np.uint32((pattern & EXPONENT) == EXPONENT)
        bits[i] = pattern
    for i in range(raw.shape[0]):
        out[i] = out[i] - base[i]
    return bool(wild == 0)
