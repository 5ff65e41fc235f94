"""Independent float64 references: mixtures of experts (specification 1.4 to 1.12), a token at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(values: Array) -> Array:
    """Shares that sum to 1."""
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def smile(
    token: Array, base: Array, bias: Array, experts: Sequence[tuple[Array, Array]], *, gate: int, rank: int, top: int
) -> Array:
    """Output of a SMILE map for one token; rank 0 is dense; matrices are (out, in)."""
    heard, outputs = [], []
    for weight, own_bias in experts:
        delta = weight - base
        left, values, right = np.linalg.svd(delta, full_matrices=False)
        heard.append(np.linalg.norm(right[:gate] @ token))
        low = (left[:, :rank] * values[:rank]) @ right[:rank] if rank else delta
        outputs.append(low @ token + own_bias - bias)
    shares = softmax(np.array(heard))
    chosen = np.argsort(-shares)[:top]
    total = sum(shares[number] for number in chosen)
    return base @ token + bias + sum(shares[number] / total * outputs[number] for number in chosen)


def singular_projection(base: Array, tuned: Array, *, count: int, high: bool, full: bool) -> Array:
    """The tuned weight's difference, seen through some singular directions of the base only."""
    left, _, right = np.linalg.svd(base, full_matrices=full)
    columns, rows = left.T[count:] if high else left.T[:count], right[count:] if high else right[:count]
    return base + columns.T @ (columns @ (tuned - base) @ rows.T) @ rows


def exact_pareto(ray: Array, losses: Array, gram: Array) -> tuple[Array, float]:
    """Weights of the tasks' losses and the programme's value (specification 1.6), by trying every corner.

    A corner of {α ≥ 0, Σα = 1, Aα ≥ b} in n dimensions lies on n − 1 of the bounds.
    """
    count = len(ray)
    weighed = ray * losses
    shares = weighed / weighed.sum()
    away = float(sum(share * np.log(count * share) for share in shares if share > 0))
    pull = np.array([r * (np.log(count * s) - away) if s > 0 else 0.0 for r, s in zip(ray, shares, strict=True)])
    turned = gram @ pull
    if away > 1e-4:
        floor = np.where(turned > 0, -np.inf, turned)
        floor[weighed == weighed.max()] = 0.0
        if not (turned > 0).any():
            floor[:] = 0.0
        aim, matrix, bound = turned, gram, floor
    else:
        aim, matrix = gram.sum(axis=0), np.vstack([gram, turned])
        bound = np.append(np.zeros(count), min(turned.max(), 0.0))
    best = _best_corner(aim, np.vstack([np.eye(count), matrix]), np.append(np.zeros(count), bound))
    return (ray / ray.sum(), np.nan) if best is None else (best, float(aim @ best))


def _best_corner(aim: Array, matrix: Array, bound: Array) -> Array | None:
    count, best = len(aim), None
    real = [row for row in range(len(bound)) if np.isfinite(bound[row])]
    for tight in itertools.combinations(real, count - 1):
        system = np.vstack([np.ones(count), matrix[list(tight)]])
        if abs(np.linalg.det(system)) < 1e-12:
            continue
        corner = np.linalg.solve(system, np.append(1.0, bound[list(tight)]))
        holds = all(matrix[row] @ corner >= bound[row] - 1e-9 for row in real)
        if holds and (best is None or aim @ corner > aim @ best):
            best = corner
    return best
