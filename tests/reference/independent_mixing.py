"""Independent float64 references: mixtures of experts (specification 1.4 to 1.12), a token at a time."""

from __future__ import annotations

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
