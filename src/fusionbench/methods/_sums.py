"""Sums over entries in float64, taken in one fixed order, so that no thread count can change them.

That of inner products is the order of `kernels.moments`, bit for bit.
"""

import operator
from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor

from fusionbench.kernels.tiles import BLOCK

LANES = 1024
"""Sums that run side by side in a block of inner products: `kernels.moments.LANES`."""
LANE = 1024
"""Entries summed at a time; torch splits a sum between threads only where it gives one number of many."""


def row_sums(values: Tensor) -> Tensor:
    """Return the sum of each row, `(rows,)` from `(rows, width)`; lanes first, then their sums."""
    rows, width = values.shape
    lanes = -(-width // LANE)
    padded = torch.nn.functional.pad(values, (0, lanes * LANE - width))
    return padded.reshape(rows, lanes, LANE).sum(-1).sum(-1)


def absolute_sum(values: Tensor) -> Tensor:
    """Return Σ |vⱼ| of a tensor of any shape, 0-d float64."""
    parts = torch.split(values.reshape(1, values.numel()), BLOCK, dim=1)
    return _total([row_sums(part.double().abs()).squeeze(0) for part in parts])


def gram(vectors: Sequence[Tensor]) -> Tensor:
    """Return all inner products row by row: `(rows, N, N)` float64 from N tensors `(rows, width)`.

    Every angle and norm that the spherical methods need is in it, so that large tensors are read once for it and once
    for the result.
    """
    # Few rows at a time: each gives N² lanes, which for short rows would be many times the block.
    height = max(1, BLOCK // (max(vectors[0].shape[1], 1) * len(vectors) ** 2))
    return torch.cat([_gram(rows) for rows in zip(*(torch.split(v, height) for v in vectors), strict=True)])


def _gram(vectors: Sequence[Tensor]) -> Tensor:
    strips = zip(*(torch.split(vector, BLOCK, dim=1) for vector in vectors), strict=True)
    return _total(map(_block_gram, strips))


def _block_gram(vectors: Sequence[Tensor]) -> Tensor:
    """Return the inner products `(rows, N, N)` of one block, N tensors `(rows, width)`."""
    count, (rows, width) = len(vectors), vectors[0].shape
    lanes = min(LANES, 1 << max(width - 1, 0).bit_length())
    steps = -(-width // lanes)
    block = vectors[0].new_zeros(count, rows, steps * lanes, dtype=torch.float64)
    for i, vector in enumerate(vectors):
        block[i, :, :width] = vector
    total = block.new_zeros(count, count, rows, lanes)
    for strip in block.view(count, rows, steps, lanes).unbind(2):
        total += strip.unsqueeze(1) * strip
    while total.shape[3] > 1:
        half = total.shape[3] // 2
        total = total[..., :half] + total[..., half:]
    return total.squeeze(3).movedim(2, 0)


def weighted_rows(vectors: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """Return Σ cᵢ·vᵢ row by row: `(rows, width)` from N tensors of that shape and coefficients `(rows, N)`."""
    factors = coefficients.to(vectors[0].dtype).unsqueeze(1).unbind(2)
    return _total(vector * factor for vector, factor in zip(vectors, factors, strict=True))


def _total(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of the terms, from the first on."""
    return reduce(operator.add, terms)
