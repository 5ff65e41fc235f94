"""Independent float64 references: spheres and per-tensor geometry (specification D and E), one tensor at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import floor
from typing import Literal

import numpy as np
from independent_models import Array, spread

TINY = 1e-12


def arc(first: Array, second: Array, t: float, *, straight: float = 0.9995, guard: bool = True) -> Array:
    """Spherical interpolation of the un-normalised vectors; straight line when |cos| > ``straight`` or a norm is 0.

    Without ``guard`` a zero vector counts as orthogonal to everything, as both peers have it.
    """
    norms = np.linalg.norm(first), np.linalg.norm(second)
    cosine = float((first * second).sum() / (norms[0] * norms[1])) if min(norms) > TINY else float(guard)
    if abs(cosine) > straight:
        return (1 - t) * first + t * second
    angle = np.arccos(np.clip(cosine, -1, 1))
    return (np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle)


def slerp(base: Array | None, experts: Sequence[Array], *, t: float = 0.5) -> Array:
    """From the first expert (t = 0) to the second, or from the base to the only expert."""
    first, second = experts if base is None else (base, experts[0])
    return arc(first, second, t)


def nuslerp(
    base: Array | None,
    experts: Sequence[Array],
    *,
    weights: Sequence[float],
    mode: Literal["flat", "row", "column"] = "flat",
    straight: float = 0.9995,
    guard: bool = True,
) -> Array:
    """Slerp at t = w2 / (w1 + w2) of the weights, or of the deltas; whole, along the last axis, or along axis 0."""
    t = 0.5 if abs(sum(weights)) < 1e-6 else weights[1] / sum(weights)
    origin = np.zeros_like(experts[0]) if base is None else base
    first, second = (np.asarray(expert - origin) for expert in experts)
    if mode == "flat" or first.ndim < 2:
        return origin + arc(first, second, t, straight=straight, guard=guard)
    axis = first.ndim - 1 if mode == "row" else 0
    one, two = np.moveaxis(first, axis, -1), np.moveaxis(second, axis, -1)
    pairs = zip(one.reshape(-1, one.shape[-1]), two.reshape(-1, two.shape[-1]), strict=True)
    lines = [arc(u, v, t, straight=straight, guard=guard) for u, v in pairs]
    return origin + np.moveaxis(np.stack(lines).reshape(one.shape), -1, axis)


def multislerp(
    base: Array | None, experts: Sequence[Array], *, weights: float | Sequence[float] = 1.0, normalize: bool = True
) -> Array:
    """Mean norm along the weighted mean direction (closed form, specification D3); opposite pairs: weighted sum."""
    factors = spread(weights, len(experts))
    factors = factors / factors.sum() if normalize else factors
    vectors = list(experts) if base is None else [expert - base for expert in experts]
    norms = np.array([np.linalg.norm(vector) for vector in vectors])
    mean = sum(w * v / n for w, v, n in zip(factors, vectors, norms, strict=True) if n > TINY)
    length = np.linalg.norm(mean)
    if length < 1e-8:
        merged = sum(w * v for w, v in zip(factors, vectors, strict=True))
    else:
        merged = float(factors @ norms) * mean / length
    return merged if base is None else base + merged


def karcher(
    base: Array | None,
    experts: Sequence[Array],
    *,
    weights: float | Sequence[float] = 1.0,
    max_iterations: int = 10,
    tolerance: float = 1e-5,
) -> Array:
    """Riemannian mean of the directions times the mean norm (specification D4); the base is not used."""
    factors = spread(weights, len(experts)) / spread(weights, len(experts)).sum()
    norms = np.array([np.linalg.norm(expert) for expert in experts])
    live = [i for i in range(len(experts)) if norms[i] > tolerance]
    if not live:
        return np.zeros_like(experts[0])
    units = [experts[i] / norms[i] for i in live]
    share = factors[live] / factors[live].sum()
    mean = sum(a * u for a, u in zip(share, units, strict=True))
    mean = mean / np.linalg.norm(mean)
    for _ in range(max_iterations):
        tangent = np.zeros_like(mean)
        for a, u in zip(share, units, strict=True):
            angle = np.arccos(np.clip((u * mean).sum(), -1, 1))
            tangent += a * (angle / np.sin(angle) if angle > 1e-9 else 1.0) * (u - np.cos(angle) * mean)
        size = np.linalg.norm(tangent)
        if size < tolerance:
            break
        mean = np.cos(size) * mean + np.sin(size) * tangent / size
    return mean * float(factors @ norms)


def stock_ratio(taus: Sequence[Array], average: str) -> float:
    """t = N c / (1 + (N - 1) c), clamped to [0, 1], c the mean pairwise cosine or the cosine of the mean angle."""
    cosines = []
    for one, two in combinations(taus, 2):
        product = np.linalg.norm(one) * np.linalg.norm(two)
        cosines.append(float(np.clip((one * two).sum() / product, -1, 1)) if product > 0 else 0.0)
    c = float(np.mean(cosines) if average == "cosine" else np.cos(np.mean(np.arccos(cosines))))
    denominator = 1 + (len(taus) - 1) * c
    return float(np.clip(len(taus) * c / denominator, 0, 1)) if denominator > TINY else 0.0


def model_stock(
    base: Array,
    experts: Sequence[Array],
    *,
    average: Literal["cosine", "angle"] = "cosine",
    filter_wise: bool = False,
) -> Array:
    """t * mean of the experts + (1 - t) * base (2403.19522), per tensor or per output row."""
    if filter_wise and base.ndim > 1:
        rows = [model_stock(base[i], [expert[i] for expert in experts], average=average) for i in range(base.shape[0])]
        return np.stack(rows)
    taus = [expert - base for expert in experts]
    return base + stock_ratio(taus, average) * np.mean(taus, axis=0)


def sce(base: Array, experts: Sequence[Array], *, topk: float = 1.0) -> Array:
    """Select by variance, weigh by mean square, erase minority signs (2408.07990). A sum of 0 votes for +."""
    values = np.stack([(expert - base).reshape(-1) for expert in experts])
    if topk < 1:
        variance = values.var(0)
        count = floor(int((variance != 0).sum()) * topk)
        mask = np.zeros(values.shape[1])
        mask[np.argsort(-variance, kind="stable")[:count]] = 1
        values = values * mask
    power = (values**2).mean(1)
    weight = power / power.sum() if power.sum() > 0 else np.full(len(values), 1 / len(values))
    agree = (np.sign(values) == np.where(values.sum(0) >= 0, 1, -1)) * weight[:, None]
    share = agree.sum(0)
    merged = (values * agree).sum(0) / np.where(share == 0, 1.0, share)
    return base + merged.reshape(base.shape)


def softmax(values: Array) -> Array:
    """Softmax of the last axis plus 1e-8."""
    power = np.exp(values - values.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True) + 1e-8


def arcee_threshold(importance: Array) -> float:
    """Median + 1.5 (Q3 - Q1), each the order statistic of index floor(q (n - 1))."""
    ordered = np.sort(importance.reshape(-1))
    low, middle, high = (float(ordered[floor(q * (ordered.size - 1))]) for q in (0.25, 0.5, 0.75))
    return middle + 1.5 * (high - low)


def arcee_importance(base: Array, expert: Array) -> Array:
    """|expert - base| times the row's Kullback-Leibler divergence (clamped at 0) of the softmaxed rows."""
    one, two = np.atleast_1d(expert), np.atleast_1d(base)
    p, q = softmax(one), softmax(two)
    divergence = np.maximum((p * np.log(p / q)).sum(-1, keepdims=True), 0.0)
    return np.abs(one - two) * divergence


def arcee_fusion(base: Array, experts: Sequence[Array]) -> Array:
    """Take the expert's entry where its importance reaches the threshold (passes it, when the threshold is 0)."""
    importance = arcee_importance(base, experts[0])
    threshold = arcee_threshold(importance)
    chosen = importance >= threshold if threshold > 0 else importance > 0
    return np.where(chosen.reshape(base.shape), experts[0], base)
