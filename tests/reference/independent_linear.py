"""Independent float64 references: averages, task arithmetic, TIES and the sparsifiers (specification B and C)."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import Literal

import numpy as np
from independent_models import Array, Model, add, deltas, flatten, like, named, spread, unflatten

Combine = Literal["mean", "sum", "max"]
Rescale = Literal["none", "inverse", "l1"]


def simple_average(base: Model | None, experts: Sequence[Model]) -> Model:
    """Mean of the experts; the base is not used (2203.05482)."""
    return weighted_average(base, experts, weights=1.0)


def weighted_average(
    base: Model | None,
    experts: Sequence[Model],
    *,
    weights: float | Sequence[float] = 1.0,
    normalize: bool = True,
    relative_to_base: bool = False,
) -> Model:
    """Sum of w_i expert_i, or base + sum of w_i delta_i; w is divided by its sum if ``normalize``."""
    factors = spread(weights, len(experts))
    factors = factors / factors.sum() if normalize else factors
    if relative_to_base:
        assert base is not None
        return task_arithmetic(base, experts, weights=list(factors), scale=1.0)
    parts = [named(expert) for expert in experts]
    return like({name: sum(w * p[name] for w, p in zip(factors, parts, strict=True)) for name in parts[0]}, experts[0])


def task_arithmetic(
    base: Model, experts: Sequence[Model], *, weights: float | Sequence[float] = 1.0, scale: float = 0.3
) -> Model:
    """Base + scale * sum of w_i delta_i (2212.04089)."""
    factors, taus = spread(weights, len(experts)), deltas(base, experts)
    total = {name: sum(w * tau[name] for w, tau in zip(factors, taus, strict=True)) for name in taus[0]}
    return add(base, total, scale)


def expo(base: Model, experts: Sequence[Model], *, scale: float = 0.1) -> Model:
    """Mean of the experts, pushed on by scale * (mean - base) (2404.16792); the base is the SFT model."""
    mean = named(simple_average(None, experts))
    origin = named(base)
    return like({name: mean[name] + scale * (mean[name] - origin[name]) for name in mean}, base)


def largest(vector: Array, count: int) -> Array:
    """Return a mask (1.0 or 0.0) of the ``count`` largest magnitudes, compared in float32; of equal ones the first."""
    order = np.argsort(-np.abs(vector.astype(np.float32)), kind="stable")
    mask = np.zeros_like(vector)
    mask[order[:count]] = 1.0
    return mask


def keep_largest(vector: Array, count: int) -> Array:
    """Zero all but the ``count`` largest magnitudes."""
    return vector * largest(vector, count)


def elect_and_combine(values: Array, weights: Array, combine: Combine) -> Array:
    """Merge trimmed deltas (experts, entries) over those whose sign is the sign of the weighted sum; sum 0 gives 0."""
    votes = values * weights[:, None]
    sign = np.sign(votes.sum(0))
    agree = (np.sign(votes) == sign) & (sign != 0)
    kept = np.where(agree, votes, 0.0)
    if combine == "sum":
        return kept.sum(0)
    if combine == "max":
        return sign * np.abs(kept).max(0)
    share = (agree * weights[:, None]).sum(0)
    return kept.sum(0) / np.where(share == 0, 1.0, share)


def ties_trim(
    tau: dict[str, Array], density: float, scope: str = "model", changed: frozenset[str] = frozenset()
) -> dict[str, Array]:
    """Keep exactly floor(density * entries) entries of the model, of each tensor, or of the ``changed`` tensors."""
    if scope == "tensor":
        return {n: keep_largest(t.reshape(-1), floor(density * t.size)).reshape(t.shape) for n, t in tau.items()}
    part = {name: tensor for name, tensor in tau.items() if scope == "model" or name in changed}
    rest = {name: np.zeros_like(tensor) for name, tensor in tau.items() if name not in part}
    if not part:
        return rest
    vector = flatten(part)
    return unflatten(keep_largest(vector, floor(density * vector.size)), part) | rest


def ties(
    base: Model,
    experts: Sequence[Model],
    *,
    density: float | Sequence[float] = 0.2,
    weights: float | Sequence[float] = 1.0,
    scale: float = 1.0,
    scope: Literal["model", "tensor", "changed"] = "model",
    combine: Combine = "mean",
) -> Model:
    """Trim each delta, elect the sign, merge what agrees (2306.01708). Votes and means are weighted by ``weights``."""
    taus = deltas(base, experts)
    changed = frozenset(name for name in taus[0] if any(np.any(tau[name] != 0) for tau in taus))
    shares = spread(density, len(taus))
    trimmed = [ties_trim(tau, share, scope, changed) for tau, share in zip(taus, shares, strict=True)]
    stacked = np.stack([flatten(tau) for tau in trimmed])
    merged = elect_and_combine(stacked, spread(weights, len(taus)), combine)
    return add(base, unflatten(merged, taus[0]), scale)


def magmax(base: Model, experts: Sequence[Model], *, scale: float = 0.5) -> Model:
    """For each entry the delta of largest magnitude; the later expert wins a draw (2407.06322)."""
    taus = deltas(base, experts)
    merged = taus[0]
    for tau in taus[1:]:
        merged = {name: np.where(np.abs(tau[name]) >= np.abs(m), tau[name], m) for name, m in merged.items()}
    return add(base, merged, scale)


def combine_deltas(
    base: Array, taus: Sequence[Array], weights: float | Sequence[float], scale: float, combine: str
) -> Array:
    """Base + scale * (weighted sum, or TIES election with mean or sum) of sparsified deltas."""
    values, factors = np.stack([tau.reshape(-1) for tau in taus]), spread(weights, len(taus))
    if combine == "linear":
        merged = (values * factors[:, None]).sum(0)
    else:
        merged = elect_and_combine(values, factors, "mean" if combine == "ties" else "sum")
    return base + scale * merged.reshape(base.shape)


def breadcrumbs_delta(
    delta: Array, *, top_drop: float = 0.01, density: float = 0.15, granularity: Literal["tensor", "row"] = "tensor"
) -> Array:
    """Drop the largest floor(top_drop * n) magnitudes, keep the next floor(density * n), at least 1 (2312.06795).

    Density wins: if there are not enough entries left below, fewer large ones are dropped.
    """
    delta = np.asarray(delta, dtype=np.float64)
    rows = delta.reshape(-1, delta.shape[-1]) if granularity == "row" and delta.ndim else delta.reshape(1, -1)
    keep = max(1, floor(density * rows.shape[1]))
    top = min(floor(top_drop * rows.shape[1]), rows.shape[1] - keep)
    kept = [row * (largest(row, top + keep) - largest(row, top)) for row in rows]
    return np.stack(kept).reshape(delta.shape)


def breadcrumbs(
    base: Array,
    experts: Sequence[Array],
    *,
    top_drop: float = 0.01,
    density: float = 0.15,
    granularity: Literal["tensor", "row"] = "tensor",
    weights: float | Sequence[float] = 1.0,
    scale: float = 0.3,
    combine: str = "linear",
) -> Array:
    """Base + scale * sum of w_i breadcrumbs(delta_i), one tensor."""
    taus = [
        breadcrumbs_delta(expert - base, top_drop=top_drop, density=density, granularity=granularity)
        for expert in experts
    ]
    return combine_deltas(base, taus, weights, scale, combine)


def l1_rescale(kept: Array, delta: Array, tiny: float = 0.0) -> Array:
    """Multiply ``kept`` by |delta|_1 / |kept|_1 (mergekit's rescale)."""
    full, rest = np.abs(delta).sum(), np.abs(kept).sum()
    return kept if full <= tiny or rest <= tiny else kept * (full / rest)


def dare_delta(delta: Array, mask: Array, *, density: float, rescale: Rescale = "inverse") -> Array:
    """Masked delta, divided by the density or L1-matched (2311.03099); drop rate p = 1 - density."""
    kept = delta * mask
    return {"none": kept, "inverse": kept / density, "l1": l1_rescale(kept, delta)}[rescale]


def della_keep_probabilities(delta: Array, *, density: float, epsilon: float = 0.15) -> Array:
    """(density - epsilon) + 2 epsilon rank / (c - 1) in each row; rows of length 1 have ``density`` (2406.11617).

    Rows are the last axis of a matrix, all of a vector, (out, -1) of a convolution; draws are ranked by position.
    """
    rows = delta.reshape(delta.shape[0], -1) if delta.ndim > 1 else delta.reshape(1, -1)
    if rows.shape[1] == 1:
        return np.full(delta.shape, density)
    rank = np.argsort(np.argsort(np.abs(rows), axis=1, kind="stable"), axis=1, kind="stable")
    return ((density - epsilon) + 2 * epsilon * rank / (rows.shape[1] - 1)).reshape(delta.shape)


def della_delta(
    delta: Array, mask: Array, *, density: float, epsilon: float = 0.15, rescale: Rescale = "inverse"
) -> Array:
    """Masked delta, each entry divided by its own keep probability, or L1-matched."""
    kept = delta * mask
    if rescale == "inverse":
        return kept / della_keep_probabilities(delta, density=density, epsilon=epsilon)
    return l1_rescale(kept, delta) if rescale == "l1" else kept


def nearswap(base: Array, experts: Sequence[Array], *, t: float) -> Array:
    """Move to the expert by min(1, t / |expert - base|), entry by entry."""
    distance = np.abs(experts[0] - base)
    gain = np.clip(t / np.maximum(distance, 1e-6), 0.0, 1.0)
    return gain * experts[0] + (1 - gain) * base


def ram(base: Array, experts: Sequence[Array], *, gain: float = 0.0, most: float = 0.2, epsilon: float = 1e-5) -> Array:
    """Keep what one expert changed, times 1 + gain * min(shared / own, most); average what several did."""
    taus = [expert - base for expert in experts]
    changed = [np.abs(tau) > epsilon for tau in taus]
    count = np.sum(changed, axis=0)
    total = np.zeros_like(base)
    for tau, mask in zip(taus, changed, strict=True):
        own = int((mask & (count == 1)).sum())
        ratio = min(int((mask & (count > 1)).sum()) / own, most) if own else 0.0
        total = total + np.where(mask & (count == 1), tau * (1 + gain * ratio), 0)
        total = total + np.where(mask & (count > 1), tau / np.maximum(count, 1), 0)
    return base + total
