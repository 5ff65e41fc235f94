"""Independent float64 restatements of what mergekit 0.1.5 and fusion-bench 0.2.33 compute where they leave the papers.

Written from the formulas in the specification, not from the peers' sources. ``compare.py`` holds them against the
peers' own outputs. mergekit works on one tensor at a time and always against a base; fusion-bench on whole models.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from independent_geometry import arc, softmax
from independent_linear import Combine, dare_delta, della_delta, keep_largest, l1_rescale, largest
from independent_masks import emr_weights
from independent_models import Array, Model, add, deltas, flatten, spread, unflatten
from independent_spectral import adam, mean_delta, svd, tsv_m, wudi_loss_and_gradient

Sparsifier = Literal["none", "magnitude", "outliers"]


def official_trim(vector: Array, density: float) -> Array:
    """Keep all >= the order statistic of 1-based index d - floor(density d): floor(density d) + 1 and all draws."""
    order = np.sort(np.abs(vector).astype(np.float32))
    threshold = order[max(vector.size - int(vector.size * density), 1) - 1]
    return vector * (np.abs(vector).astype(np.float32) >= threshold)


def official_elect(values: Array, combine: Combine) -> Array:
    """Sum's sign; where it is 0 the majority of all signs; where that is 0 too the negative entries are merged."""
    sign = np.sign(values.sum(0))
    sign = np.where(sign == 0, np.sign(sign.sum()), sign)
    kept = np.where(np.where(sign > 0, values > 0, values < 0), values, 0.0)
    if combine == "sum":
        return kept.sum(0)
    if combine == "max":
        return sign * np.abs(kept).max(0)
    return kept.sum(0) / np.maximum((kept != 0).sum(0), 1)


def official_ties(
    base: Model, experts: Sequence[Model], *, density: float = 0.2, scale: float = 1.0, combine: Combine = "mean"
) -> Model:
    """TIES of the authors' code and of fusion-bench: whole vector, one entry too many kept, no weights."""
    taus = deltas(base, experts)
    trimmed = np.stack([official_trim(flatten(tau), density) for tau in taus])
    return add(base, unflatten(official_elect(trimmed, combine), taus[0]), scale)


def mergekit_outliers(vector: Array, density: float, gamma: float) -> Array:
    """Drop floor(gamma n) from the top and the rest from the bottom, so that floor(density n) stay; density wins."""
    keep = int(density * vector.size)
    top = min(int(gamma * vector.size), vector.size - keep)
    return vector * (largest(vector, top + keep) - largest(vector, top))


def mergekit_sparsify(delta: Array, method: Sparsifier, density: float, gamma: float) -> Array:
    """Magnitude (TIES, at least one entry kept) or magnitude outliers (breadcrumbs) of one tensor."""
    if method == "none" or density >= 1:
        return delta
    vector = delta.reshape(-1)
    if method == "magnitude":
        return keep_largest(vector, max(1, int(density * vector.size))).reshape(delta.shape)
    return mergekit_outliers(vector, density, gamma).reshape(delta.shape)


def mergekit_combine(
    base: Array, taus: Sequence[Array], weights: Array, *, consensus: bool, normalize: bool, scale: float
) -> Array:
    """Weighted sum, over entries that agree with the sign of the weighted sum (0 counts as +) if ``consensus``."""
    values = np.stack(taus) * weights.reshape(-1, *([1] * base.ndim))
    factors = np.broadcast_to(weights.reshape(-1, *([1] * base.ndim)), values.shape)
    if consensus:
        agree = np.sign(values) == np.where(values.sum(0) >= 0, 1, -1)
        values, factors = values * agree, factors * agree
    merged, share = values.sum(0), factors.sum(0)
    empty = share == 0 if consensus else np.abs(share) < 1e-8
    return base + scale * (merged / np.where(empty, 1.0, share) if normalize else merged)


def mergekit_arithmetic(
    base: Array,
    experts: Sequence[Array],
    *,
    weights: float | Sequence[float] = 1.0,
    density: float | Sequence[float] = 1.0,
    gamma: float | Sequence[float] = 0.01,
    sparsify: Sparsifier = "none",
    consensus: bool = False,
    normalize: bool = False,
    rescale: bool = False,
    scale: float = 1.0,
) -> Array:
    """mergekit's task_arithmetic, ties (magnitude, consensus, normalize) and breadcrumbs (outliers)."""
    taus, count = [], len(experts)
    for expert, share, top in zip(experts, spread(density, count), spread(gamma, count), strict=True):
        kept = mergekit_sparsify(expert - base, sparsify, float(share), float(top))
        taus.append(l1_rescale(kept, expert - base, 1e-7) if rescale and sparsify != "none" else kept)
    factors = spread(weights, count)
    return mergekit_combine(base, taus, factors, consensus=consensus, normalize=normalize, scale=scale)


def mergekit_random(
    base: Array,
    experts: Sequence[Array],
    masks: Sequence[Array],
    *,
    weights: float | Sequence[float] = 1.0,
    density: float = 0.5,
    epsilon: float | None = None,
    consensus: bool = False,
    normalize: bool = False,
    scale: float = 1.0,
) -> Array:
    """mergekit's dare_* (no epsilon) and della* for given masks: kept entries are L1-matched, not divided."""
    taus = [
        dare_delta(expert - base, mask, density=density, rescale="l1")
        if epsilon is None
        else della_delta(expert - base, mask, density=density, epsilon=epsilon, rescale="l1")
        for expert, mask in zip(experts, masks, strict=True)
    ]
    factors = spread(weights, len(experts))
    return mergekit_combine(base, taus, factors, consensus=consensus, normalize=normalize, scale=scale)


def unguarded_slerp(base: Array | None, experts: Sequence[Array], *, t: float) -> Array:
    """Slerp of both peers: a zero vector counts as orthogonal, so the other is scaled by sin(t pi / 2)."""
    first, second = experts if base is None else (base, experts[0])
    return arc(first, second, t, guard=False)


def mergekit_model_stock(base: Array, experts: Sequence[Array], *, filter_wise: bool = False) -> Array:
    """Mean cosine over pairs, norm products at least 1e-6, ratio not clamped.

    "Filter" means a row along the last axis, for a convolution too (one row of one kernel, not an output channel).
    """
    if filter_wise and base.ndim > 1:
        return np.stack([mergekit_model_stock(b, e, filter_wise=True) for b, *e in zip(base, *experts, strict=True)])
    taus = [expert - base for expert in experts]
    cosines = [
        float(np.clip((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-6), -1, 1))
        for a, b in combinations(taus, 2)
    ]
    c = float(np.mean(cosines))
    denominator = 1 + (len(taus) - 1) * c
    ratio = len(taus) * c / denominator if abs(denominator) >= 1e-6 else 0.0
    return base + ratio * np.mean(taus, axis=0)


def fusion_bench_model_stock(base: Array, experts: Sequence[Array]) -> Array:
    """Cosine of the mean angle, 1e-8 added to the norm products and to the denominator, ratio not clamped."""
    taus = [expert - base for expert in experts]
    cosines = [(a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-8) for a, b in combinations(taus, 2)]
    c = float(np.cos(np.mean(np.arccos(np.clip(cosines, -1, 1)))))
    return base + len(taus) * c / (1 + (len(taus) - 1) * c + 1e-8) * np.mean(taus, axis=0)


def mergekit_sce(base: Array, experts: Sequence[Array], *, topk: float = 1.0) -> Array:
    """SCE with absolute thresholds: uniform weights if the mean squares sum below 1e-6, shares at least 1e-6."""
    values = np.stack([(expert - base).reshape(-1) for expert in experts])
    if topk < 1:
        variance = values.var(0)
        values = values * largest(variance, int(int((variance != 0).sum()) * topk))
    power = (values**2).mean(1)
    weight = power / power.sum() if power.sum() >= 1e-6 else np.full(len(values), 1 / len(values))
    agree = (np.sign(values) == np.where(values.sum(0) >= 0, 1, -1)) * weight[:, None]
    return base + ((values * agree).sum(0) / np.maximum(agree.sum(0), 1e-6)).reshape(base.shape)


def mergekit_arcee_fusion(base: Array, experts: Sequence[Array]) -> Array:
    """As ours, without the clamp of the divergence and with >= even at threshold 0."""
    one, two = np.atleast_1d(experts[0]), np.atleast_1d(base)
    p, q = softmax(one), softmax(two)
    importance = np.abs(one - two) * (p * np.log(p / q)).sum(-1, keepdims=True)
    ordered = np.sort(importance.reshape(-1))
    low, middle, high = (ordered[int(f * (ordered.size - 1))] for f in (0.25, 0.5, 0.75))
    return np.where(importance >= middle + 1.5 * (high - low), one, two).reshape(base.shape)


def fusion_bench_tsv_m(base: Array, experts: Sequence[Array], *, scale: float = 1.0) -> Array:
    """TSV-M with floor(r / N) = 0 leaving the matrix at the base."""
    if base.ndim == 2 and min(base.shape) < len(experts):
        return base.copy()
    return tsv_m(base, experts, scale=scale)


def raw_iso_c(base: Array, experts: Sequence[Array], *, scale: float = 1.0) -> Array:
    """Iso-C without the rank guard: null directions get the mean singular value too."""
    if base.ndim != 2:
        return base + scale * mean_delta(base, experts)
    left, values, right = svd(sum(expert - base for expert in experts))
    return base + scale * values.mean() * left @ right


def fusion_bench_wudi(base: Array, experts: Sequence[Array], *, steps: int = 300, rate: float = 1e-5) -> Array:
    """WUDI on every matrix, the mean of the deltas elsewhere."""
    if base.ndim != 2:
        return base + mean_delta(base, experts)
    taus = [expert - base for expert in experts]
    return base + adam(sum(taus), lambda x: wudi_loss_and_gradient(x, taus)[1], steps, rate)


def fusion_bench_emr(base: Model, experts: Sequence[Model]) -> list[Model]:
    """EMR with scales from sums of per-tensor means; a sum of 0 counts as negative."""
    return emr_weights(base, experts, norm="tensor_mean", zero_sign=-1)
