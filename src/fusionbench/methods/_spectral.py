"""What the spectral methods share: which tensors are matrices, singular factors, polar factors, and Adam.

All in float64. Directions that rounding made, with singular values below max(m, n)·ε of the largest where ε is that of
the input's precision, are left out: they are arbitrary, and several methods would give them the weight of the others.
Nothing here asks the device for a value, so that a GPU never waits.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fusionbench.weights.plan import Site

Rank = Literal["numerical", "full"]
Others = Literal["mean", "keep"]
GRAM = 3e-5
"""Tolerance from which the eigenvectors of the smaller Gram matrix serve: their error is ε·(σ₁/σ)² ≤ 2.5e-7, and they
take less than half the time of a singular value decomposition."""


class Factors(NamedTuple):
    """A matrix's leading singular triples.

    Attributes:
        left: `(m, k)`, left vectors in columns; zero where the direction is not part of the numerical rank.
        values: `(k,)`, descending, all of them.
        right: `(k, n)`, right vectors in rows; zero like `left`.
        live: `(k,)`, which directions belong to the numerical rank.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    live: Tensor


def is_matrix(tensor: Tensor, site: Site | None, *, embeddings: bool) -> bool:
    """Tell whether a spectral method treats a tensor as a matrix.

    Args:
        tensor: one of the inputs.
        site: its place; without one every tensor of two dimensions counts.
        embeddings: whether embedding tables and output heads count, not only linear layers.
    """
    if tensor.dim() != 2 or tensor.numel() == 0:
        return False
    return site is None or embeddings or site.role == "matrix"


def oriented(tensor: Tensor, site: Site | None) -> Tensor:
    """Return a matrix as `(outputs, inputs)`, or such a matrix as its file has it: the same step both ways."""
    return tensor if site is None or site.inputs_last else tensor.T


def mean_of(deltas: Sequence[Tensor]) -> Tensor:
    """Return the mean of the task vectors: what these methods do with tensors that are no matrices."""
    total = deltas[0]
    for delta in deltas[1:]:
        total = total + delta
    return total / len(deltas)


def rounding(like: Tensor) -> float:
    """Return max(m, n)·ε of the input's precision: the share of σ₁ below which a singular value is rounding."""
    return max(like.shape) * float(torch.finfo(like.dtype).eps)


def limit_of(like: Tensor, rank: Rank) -> float | None:
    """Return `rounding`, or None where directions of any size are wanted."""
    return rounding(like) if rank == "numerical" else None


def factors(matrix: Tensor, limit: float | None, count: int | None = None, size: Tensor | None = None) -> Factors:
    """Return the leading singular triples of a matrix.

    Args:
        matrix: `(m, n)` float64, not empty.
        limit: directions with σ ≤ limit·σ₁ are left out; None keeps all, however small.
        count: how many; all min(m, n) by default.
        size: what the limit is a share of, where the matrix is what was left of a larger one; σ₁ by default.
    """
    count = min(matrix.shape) if count is None else count
    if limit is None or limit < GRAM:
        left, values, right = _svd(matrix)
        left, values, right = left[:, :count], values[:count], right[:count]
        live = values >= 0 if limit is None else values > limit * (values[:1] if size is None else size)
        return Factors(left * live, values, right * live[:, None], live)
    if matrix.shape[0] < matrix.shape[1]:
        found = factors(matrix.T, limit, count, size)
        return Factors(found.right.T, found.values, found.left.T, found.live)
    squares, vectors = torch.linalg.eigh(matrix.T @ matrix)
    values = squares.flip(0)[:count].clamp(min=0).sqrt()
    live = values > limit * (values[:1] if size is None else size)
    right = vectors.flip(1)[:, :count].T * live[:, None]
    left = (matrix @ right.T) / torch.where(live, values, 1.0)
    return Factors(left, values, right, live)


def polar(matrix: Tensor, limit: float | None) -> Tensor:
    """Return U·Vᵀ of the singular value decomposition, on the numerical rank.

    Args:
        matrix: `(m, n)` float64.
        limit: as for `factors`.
    """
    found = factors(matrix, limit)
    return found.left @ found.right


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin decomposition; where LAPACK's fast driver does not converge, the slow one's."""
    try:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        from scipy.linalg import svd

        parts = svd(matrix.cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
        left, values, right = (torch.from_numpy(part).to(matrix.device) for part in parts)
    return left, values, right


def adam(gradient: Callable[[Tensor], Tensor], like: Tensor, steps: int, rate: float) -> Tensor:
    """Return where Adam (β = 0.9, 0.999; ε = 1e-8) arrives from zero.

    Args:
        gradient: of the loss at a point.
        like: a tensor of the point's shape, precision and device.
        steps: how many.
        rate: step length η.
    """
    point, first, second = (torch.zeros_like(like) for _ in range(3))
    root = torch.empty_like(like)
    for step in range(1, steps + 1):
        slope = gradient(point)
        first.lerp_(slope, 0.1)
        second.mul_(0.999).addcmul_(slope, slope, value=0.001)
        torch.sqrt(second, out=root).mul_((1 - 0.999**step) ** -0.5).add_(1e-8)
        point.addcdiv_(first, root, value=-rate / (1 - 0.9**step))
    return point
