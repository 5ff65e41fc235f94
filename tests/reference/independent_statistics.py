"""Independent float64 references of Fisher merging and RegMean, from the papers' formulas and closed forms alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def fisher(
    experts: Sequence[Array], information: Sequence[Array], weights: Sequence[float], *, normalize: bool = True,
    floor: float = 0.0, added: float = 0.0,
) -> Array:  # fmt: skip
    """2111.09832 eq. 5 for a model of one tensor; `added` = 1e-6 restates fusion_bench."""
    lengths = [np.sqrt((f**2).sum()) + added if normalize else 1.0 for f in information]
    least = floor * float(np.mean([f.mean() / length for f, length in zip(information, lengths, strict=True)]))
    top, bottom = np.zeros_like(experts[0]), np.zeros_like(experts[0])
    for expert, f, length, weight in zip(experts, information, lengths, weights, strict=True):
        factor = weight * np.maximum((f + added) / length, least)
        top, bottom = top + factor * expert, bottom + factor
    return top / bottom


def softmax(logits: Array) -> Array:
    """Rows of probabilities."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def exact_fisher(weight: Array, inputs: Array) -> Array:
    """The diagonal Fisher information of softmax(x·Wᵀ) in closed form: mean over x of p_k·(1 − p_k)·x_j²."""
    p = softmax(inputs @ weight.T)
    return (p * (1 - p)).T @ inputs**2 / len(inputs)


def empirical_fisher(weight: Array, inputs: Array, labels: NDArray[np.int64]) -> Array:
    """The mean over x of ((1[k = y] − p_k)·x_j)²."""
    p = softmax(inputs @ weight.T)
    return ((np.eye(len(weight))[labels] - p) ** 2).T @ inputs**2 / len(inputs)


def mergelm_fisher(weight: Array, inputs: Array, batch: int) -> Array:
    """What MergeLM and fusion_bench compute: Σ over batches of (Σ_x (√p_k − p_k·Σ_y √p_y)·x_j)², divided by n."""
    p = softmax(inputs @ weight.T)
    pull = np.sqrt(p) - p * np.sqrt(p).sum(axis=1, keepdims=True)
    parts = [pull[i : i + batch].T @ inputs[i : i + batch] for i in range(0, len(inputs), batch)]
    return np.sum([part**2 for part in parts], axis=0) / len(inputs)


def regmean(experts: Sequence[Array], grams: Sequence[Array], off_diagonal: float = 1.0) -> Array:
    """2212.09849 eq. 2 as printed: (Σ Ĝ)⁻¹ Σ Ĝ·Wᵀ, transposed; no ridge."""
    shrunk = [off_diagonal * g + (1 - off_diagonal) * np.diag(np.diag(g)) for g in grams]
    pulled = np.sum([g @ w.T for g, w in zip(shrunk, experts, strict=True)], axis=0)
    solved: Array = np.linalg.inv(np.sum(shrunk, axis=0)) @ pulled
    return solved.T


def least_squares(experts: Sequence[Array], inputs: Sequence[Array]) -> Array:
    """The W that minimises Σᵢ ‖Xᵢ·Wᵀ − Xᵢ·Wᵢᵀ‖² / nᵢ, by lstsq on the stacked rows: RegMean's definition (eq. 1)."""
    scaled = [x / np.sqrt(len(x)) for x in inputs]
    wanted = [x @ w.T for x, w in zip(scaled, experts, strict=True)]
    solved: Array = np.linalg.lstsq(np.concatenate(scaled), np.concatenate(wanted), rcond=None)[0]
    return solved.T
