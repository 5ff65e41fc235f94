"""Interpolation on spheres, in coefficients: what each vector counts for, from the vectors' inner products alone."""

from typing import Literal

import torch
from torch import Tensor

STRAIGHT = 0.9995
"""Magnitude of the cosine above which an arc and its chord are told apart by rounding only."""
OPPOSITE = 1e-6
"""Length of a mean of unit vectors below which it has no direction."""
ZeroNorm = Literal["line", "arc"]


def arc(products: Tensor, t: float, *, straight: float = STRAIGHT, zero_norm: ZeroNorm = "line") -> Tensor:
    """Return the coefficients of two vectors at share t of the arc between them (Shoemake 1985, un-normalised vectors).

    They are sin((1−t)·θ)/sin θ and sin(t·θ)/sin θ, or 1−t and t where the vectors are (nearly) parallel or opposite.

    Args:
        products: inner products, `(rows, 2, 2)`.
        t: 0 for the first, 1 for the second.
        straight: magnitude of the cosine above which the line is taken.
        zero_norm: whether a vector of norm zero is reached by the line, or by an arc as if at a right angle.

    Returns:
        `(rows, 2)` float64.
    """
    one, both, _, other = products.flatten(1).unbind(1)
    product = one.sqrt() * other.sqrt()
    alive = product > 0
    cosine = torch.where(alive, both / torch.where(alive, product, 1.0), float(zero_norm == "line"))
    cosine = cosine.clamp(-1.0, 1.0)
    line = (cosine.abs() > straight) | (1 - cosine * cosine <= 1e-16)
    angle = torch.where(line, 0.0, cosine).arccos()
    curved = torch.stack([((1 - t) * angle).sin(), (t * angle).sin()], dim=1) / angle.sin().unsqueeze(1)
    flat = torch.tensor([1 - t, t], dtype=torch.float64, device=products.device)
    return torch.where(line.unsqueeze(1), flat, curved)


def mean_direction(products: Tensor, shares: Tensor) -> Tensor:
    """Return the coefficients of the vectors' mean norm along their mean direction.

    (Σ wᵢ·‖vᵢ‖)·m with m = Σ wᵢ·ûᵢ / ‖Σ wᵢ·ûᵢ‖ and unit vectors ûᵢ; the weighted sum where the directions cancel.

    Args:
        products: inner products, `(rows, N, N)`.
        shares: w, `(N,)` float64.

    Returns:
        `(rows, N)` float64.
    """
    norms, inverse, cosines = _units(products)
    length = _length(shares.expand_as(norms), cosines)
    directed = length > OPPOSITE * shares.abs().sum()
    scale = (norms * shares).sum(1) / torch.where(directed, length, 1.0)
    return torch.where(directed.unsqueeze(1), scale.unsqueeze(1) * shares * inverse, shares)


def frechet_mean(products: Tensor, shares: Tensor, *, max_iterations: int, tolerance: float) -> Tensor:
    """Return the coefficients of the vectors' mean norm along the Fréchet (Karcher) mean of their directions.

    From the mean direction u, steps along T = Σ wᵢ·θᵢ/sin θᵢ·(ûᵢ − cos θᵢ·u) until ‖T‖ < tolerance; a vector opposite
    to u pulls in no direction. Vectors of norm zero have no direction, but count in the mean norm. Where the directions
    cancel, the weighted sum.

    Args:
        products: inner products, `(rows, N, N)`.
        shares: w, `(N,)` float64, none negative, sum 1.
        max_iterations: at most so many steps.
        tolerance: length of a step below which no more are taken.

    Returns:
        `(rows, N)` float64.
    """
    norms, inverse, cosines = _units(products)
    live = shares * (norms > 0)
    live = live / live.sum(1, keepdim=True).clamp(min=1e-300)
    length = _length(live, cosines)
    directed = length > OPPOSITE
    mean = live / torch.where(directed, length, 1.0).unsqueeze(1)
    moving = directed
    for _ in range(max_iterations):
        tangent = _pull(mean, live, cosines)
        size = _length(tangent, cosines)
        moving = moving & (size >= tolerance)
        reach = size.sin() / torch.where(moving, size, 1.0)
        step = mean * size.cos().unsqueeze(1) + tangent * reach.unsqueeze(1)
        mean = torch.where(moving.unsqueeze(1), step, mean)
    scale = (norms * shares).sum(1)
    return torch.where(directed.unsqueeze(1), scale.unsqueeze(1) * mean * inverse, shares)


def _pull(mean: Tensor, shares: Tensor, cosines: Tensor) -> Tensor:
    """Return the tangent in which the vectors pull the mean, as coefficients of the unit vectors."""
    toward = (cosines @ mean.unsqueeze(2)).squeeze(2).clamp(-1.0, 1.0)
    sine = (1 - toward * toward).sqrt()
    clear = sine > OPPOSITE
    ratio = torch.where(clear, toward.arccos() / torch.where(clear, sine, 1.0), 1.0)
    pull = shares * ratio
    return pull - (pull * toward).sum(1, keepdim=True) * mean


def _units(products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return norms, their inverses (0 for a zero vector), and the inner products of the unit vectors."""
    norms = products.diagonal(dim1=1, dim2=2).sqrt()
    inverse = torch.where(norms > 0, 1 / torch.where(norms > 0, norms, 1.0), 0.0)
    return norms, inverse, products * inverse.unsqueeze(2) * inverse.unsqueeze(1)


def _length(coefficients: Tensor, cosines: Tensor) -> Tensor:
    """Return ‖Σ cᵢ·ûᵢ‖ of each row."""
    squared = (coefficients.unsqueeze(1) @ cosines @ coefficients.unsqueeze(2)).flatten()
    return squared.clamp(min=0.0).sqrt()
