"""Sums over entries in float64, taken in one fixed order, so that no thread count can change them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fusionbench.kernels.tiles import BLOCK

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
    total = torch.zeros((), dtype=torch.float64, device=values.device)
    for part in torch.split(values.reshape(1, values.numel()), BLOCK, dim=1):
        total = total + row_sums(part.double().abs())[0]
    return total


def gram(vectors: Sequence[Tensor]) -> Tensor:
    """Return all inner products row by row: `(rows, N, N)` float64 from N tensors `(rows, width)`.

    Every angle and norm that the spherical methods need is in it, so that large tensors are read once for it and once
    for the result.
    """
    rows, width = vectors[0].shape
    products = torch.zeros(rows, len(vectors), len(vectors), dtype=torch.float64, device=vectors[0].device)
    height = max(1, BLOCK // max(width, 1))
    for top in range(0, rows, height):
        for left in range(0, width, BLOCK):
            parts = [vector[top : top + height, left : left + BLOCK].double() for vector in vectors]
            for i, one in enumerate(parts):
                for j, other in enumerate(parts[: i + 1]):
                    products[top : top + height, i, j] += row_sums(one * other)
    return products + products.tril(-1).transpose(1, 2)


def weighted_rows(vectors: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """Return Σ cᵢ·vᵢ row by row: `(rows, width)` from N tensors of that shape and coefficients `(rows, N)`."""
    factors = coefficients.to(vectors[0].dtype)
    total = vectors[0] * factors[:, :1]
    for i, vector in enumerate(vectors[1:], start=1):
        total = total + vector * factors[:, i : i + 1]
    return total
