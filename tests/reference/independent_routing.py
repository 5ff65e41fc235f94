"""Independent float64 references: routers by prompts, rank-one experts and the balance of a router's choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def prompted_gate(positive: Sequence[Array], negative: Sequence[Array] = ()) -> Array:
    """A router's row: the mean over prompts, less that over prompts that are not meant, of length 1."""
    gate = sum(positive) / len(positive)
    if len(negative):
        gate = gate - sum(negative) / len(negative)
    return gate / np.sqrt((gate * gate).sum())


def balance(logits: Array, top_k: int) -> float:
    """Experts · Σ over experts of (choices a token) · (mean probability), of one layer."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    counts = np.zeros(logits.shape[1])
    for row in shares:
        counts[np.argsort(-row)[:top_k]] += 1
    return float(logits.shape[1] * (counts / len(logits) * shares.mean(axis=0)).sum())


def soft_top(weights: Array, count: int) -> Array:
    """The largest numbers, the others near zero, the smallest of the kept halved."""
    limit = np.sort(weights)[::-1][count - 1]
    return weights / (1 + np.exp(-100 * (weights - limit)))


def rank_one_map(
    token: Array,
    base: Array,
    bias: Array,
    experts: Sequence[tuple[Array, Array]],
    weights: Array,
    *,
    rank: int,
    init: float,
) -> Array:
    """Output of a map of rank-one experts for one token; matrices are (out, in), weights expert after expert."""
    matrix, shift = base.copy(), bias.copy()
    for number, (weight, own_bias) in enumerate(experts):
        left, values, right = np.linalg.svd(weight - base, full_matrices=False)
        for place in range(rank):
            factor = weights[number * rank + place] * values[place]
            matrix += factor * np.outer(left[:, place], right[place])
        shift += init * (own_bias - bias)
    return matrix @ token + shift
