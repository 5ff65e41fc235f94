"""Independent float64 references: task masks (specification H). Models are arrays or mappings of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from independent_models import Array, Model, add, deltas, flatten, unflatten


def tall_mask(base: Model, experts: Sequence[Model], *, threshold: float | Sequence[float] = 0.4) -> list[Array]:
    """One flat boolean mask an expert: |tau_t| > threshold_t * |sum of tau - tau_t| (2405.07813).

    Entries in the order of :func:`independent_models.flatten`. The comparison is strict, so untouched entries are out.
    """
    taus = [flatten(tau) for tau in deltas(base, experts)]
    total = np.sum(taus, axis=0)
    limits = np.broadcast_to(threshold, (len(taus),))
    return [np.abs(tau) > limit * np.abs(total - tau) for tau, limit in zip(taus, limits, strict=True)]


def tall_mask_weights(
    base: Model, experts: Sequence[Model], *, threshold: float | Sequence[float] = 0.4, scale: float = 1.0
) -> list[Model]:
    """What each task gets: base + scale * mask_t * sum of tau."""
    taus = deltas(base, experts)
    total = np.sum([flatten(tau) for tau in taus], axis=0)
    masks = tall_mask(base, experts, threshold=threshold)
    return [add(base, unflatten(mask * total, taus[0]), scale) for mask in masks]


def consensus(
    base: Model,
    experts: Sequence[Model],
    *,
    threshold: float | Sequence[float] = 0.4,
    minimum: int = 2,
    scale: float = 0.3,
) -> Model:
    """Base + scale * sum of tau, only where at least ``minimum`` TALL masks are set."""
    taus = deltas(base, experts)
    total = np.sum([flatten(tau) for tau in taus], axis=0)
    chosen = np.sum(tall_mask(base, experts, threshold=threshold), axis=0) >= minimum
    return add(base, unflatten(chosen * total, taus[0]), scale)


def emr(
    base: Model, experts: Sequence[Model], *, norm: str = "global", zero_sign: int = 0
) -> tuple[dict[str, Array], list[Array], list[float]]:
    """Return the unified delta, one flat mask an expert and one scale an expert (2405.17461).

    ``norm="global"`` compares L1 norms over all entries (paper), ``"tensor_mean"`` sums of per-tensor means (code).
    A sum of exactly 0 has the sign ``zero_sign``: 0 leaves the entry out, -1 (code) takes the largest negative one.
    """
    taus = deltas(base, experts)
    values = np.stack([flatten(tau) for tau in taus])
    sign = np.sign(values.sum(0))
    sign = np.where(sign == 0, zero_sign, sign)
    unified = sign * np.where(np.sign(values) == sign, np.abs(values), 0.0).max(0)
    masks = [tau * unified > 0 for tau in values]

    def size(vector: Array) -> float:
        parts = unflatten(np.abs(vector), taus[0]).values()
        return float(sum(part.sum() if norm == "global" else part.mean() for part in parts))

    lengths = [size(unified * mask) for mask in masks]
    scales = [size(tau) / n if n > 0 else 0.0 for tau, n in zip(values, lengths, strict=True)]
    return unflatten(unified, taus[0]), masks, scales


def emr_weights(base: Model, experts: Sequence[Model], *, norm: str = "global", zero_sign: int = 0) -> list[Model]:
    """What each task gets: base + scale_t * mask_t * unified delta."""
    unified, masks, scales = emr(base, experts, norm=norm, zero_sign=zero_sign)
    vector = flatten(unified)
    return [add(base, unflatten(mask * vector, unified), scale) for mask, scale in zip(masks, scales, strict=True)]


def min_max(values: Array) -> Array:
    """Map each row to [0, 1]; a constant row to 0."""
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    return np.where(high > low, (values - low) / np.where(high > low, high - low, 1.0), 0.0)


def pcb_scales(values: Array, *, density: float, clip: float = 0.0) -> tuple[Array, Array]:
    """Return the clipped deltas and their scales (2410.02396, the authors' main script, version (a)).

    Order statistics have the index floor(d * q); the upper clip has floor(d * (1 - clip)) - 1.
    """
    count, size = values.shape
    sizes = np.abs(values)
    if clip > 0:
        ordered = np.sort(sizes, axis=1)
        low, high = ordered[:, [int(size * clip)]], ordered[:, [int(size * (1 - clip)) - 1]]
        sizes = np.clip(sizes, low, high)
    clipped = np.sign(values) * sizes
    balance = np.exp(count * min_max(sizes) ** 2) * np.tanh(values * values.sum(0))
    floor = np.sort(balance, axis=1)[:, [int(size * (1 - density))]]
    return clipped, min_max(np.maximum(balance, floor))


def pcb(
    base: Model, experts: Sequence[Model], *, density: float = 0.1, clip: float = 1e-4, scale: float = 1.2
) -> Model:
    """Base + scale * mean of the clipped deltas weighted by competition balancing."""
    taus = deltas(base, experts)
    clipped, scales = pcb_scales(np.stack([flatten(tau) for tau in taus]), density=density, clip=clip)
    merged = (clipped * scales).sum(0) / np.maximum(scales.sum(0), 1e-12)
    return add(base, unflatten(merged, taus[0]), scale)
