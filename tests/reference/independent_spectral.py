"""Independent float64 references: spectral methods (specification I).

Matrices are (out, in); tensors of other shapes take the mean of the deltas, or keep the base.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from independent_linear import elect_and_combine, largest, ties_trim
from independent_models import Array, Model, add, deltas, flatten, like, named, unflatten


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """Thin SVD: left vectors in columns, singular values, right vectors in rows."""
    return np.linalg.svd(matrix, full_matrices=False)


def polar(matrix: Array) -> Array:
    """U V^T of the thin SVD."""
    left, _, right = svd(matrix)
    return left @ right


def rank_of(values: Array, shape: tuple[int, ...]) -> int:
    """Number of singular values above max(shape) * eps * the largest one."""
    return int((values > max(shape) * np.finfo(np.float64).eps * values[0]).sum())


def mean_delta(base: Array, experts: Sequence[Array]) -> Array:
    """Mean of the deltas: what these methods do with tensors that are no matrices."""
    return np.mean([expert - base for expert in experts], axis=0)


def joined_factors(taus: Sequence[Array], count: int) -> tuple[Array, Array, Array]:
    """Concatenate the leading ``count`` singular triples of each delta: columns, values, rows."""
    parts = [svd(tau) for tau in taus]
    return (
        np.hstack([left[:, :count] for left, _, _ in parts]),
        np.concatenate([values[:count] for _, values, _ in parts]),
        np.vstack([right[:count] for _, _, right in parts]),
    )


def tsv_m(base: Array, experts: Sequence[Array], *, scale: float = 1.0) -> Array:
    """Orthogonalise the leading floor(r / N) singular vectors of each task together (2412.00081).

    With more tasks than rank (r < N) there is no room: the mean of the deltas, as for other shapes.
    """
    count = min(base.shape) // len(experts) if base.ndim == 2 else 0
    if count == 0:
        return base + scale * mean_delta(base, experts)
    left, values, right = joined_factors([expert - base for expert in experts], count)
    return base + scale * polar(left) @ np.diag(values) @ polar(right)


def iso_c(base: Array, experts: Sequence[Array], *, scale: float = 1.0) -> Array:
    """Summed delta with its spectrum flattened to the mean singular value, on its numerical range (2502.04959)."""
    if base.ndim != 2:
        return base + scale * mean_delta(base, experts)
    left, values, right = svd(sum(expert - base for expert in experts))
    rank = rank_of(values, base.shape) if values[0] > 0 else 0
    return base + scale * values.mean() * left[:, :rank] @ right[:rank]


def iso_cts(base: Array, experts: Sequence[Array], *, common: float = 0.8, scale: float = 1.0) -> Array:
    """Common part of the summed delta plus task parts orthogonal (from the left) to it, one flat spectrum."""
    if base.ndim != 2:
        return base + scale * mean_delta(base, experts)
    count, rank = len(experts), min(base.shape)
    specific = round((rank - int(rank * common)) / count)  # halves go to the even number, as in the authors' code
    if specific == 0:
        return iso_c(base, experts, scale=scale)
    shared = rank - specific * count
    taus = [expert - base for expert in experts]
    left, values, right = svd(sum(taus))
    left, values, right = left[:, :shared], values[:shared], right[:shared]
    task_left, task_values, task_right = joined_factors([tau - left @ (left.T @ tau) for tau in taus], specific)
    columns, rows = np.hstack([task_left, left]), np.vstack([task_right, right])
    flat = np.concatenate([task_values, values]).mean()
    return base + scale * flat * polar(columns) @ polar(rows)


def wudi_loss_and_gradient(point: Array, taus: Sequence[Array]) -> tuple[float, Array]:
    """Sum of |(X - tau) tau^T|^2 / |tau|^2 and its gradient; tasks with a zero delta are left out."""
    loss, gradient = 0.0, np.zeros_like(point)
    for tau in taus:
        size = (tau**2).sum()
        if size > 0:
            cross = (point - tau) @ tau.T
            loss += (cross**2).sum() / size
            gradient += 2 * cross @ tau / size
    return float(loss), gradient


def adam(start: Array, gradient_of: Callable[[Array], Array], steps: int, rate: float) -> Array:
    """Plain Adam (0.9, 0.999, eps 1e-8) with bias correction."""
    point, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, steps + 1):
        gradient = gradient_of(point)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        point = point - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return point


def wudi(base: Array, experts: Sequence[Array], *, steps: int = 300, learning_rate: float = 1e-5) -> Array:
    """Base + minimiser of the interference, early-stopped Adam from the summed delta (2503.08099); matrices only."""
    if base.ndim != 2:
        return base.copy()
    taus = [expert - base for expert in experts]
    return base + adam(sum(taus), lambda x: wudi_loss_and_gradient(x, taus)[1], steps, learning_rate)


def wudi_closed_form(base: Array, experts: Sequence[Array]) -> Array:
    """Base + the exact minimiser (sum tau_i A_i)(sum A_i)^+, A_i = tau_i^T tau_i / |tau_i|^2."""
    taus = [expert - base for expert in experts if np.any(expert != base)]
    grams = [tau.T @ tau / (tau**2).sum() for tau in taus]
    return base + sum(tau @ gram for tau, gram in zip(taus, grams, strict=True)) @ np.linalg.pinv(sum(grams))


def knots(
    base: Model,
    experts: Sequence[Model],
    *,
    combine: str = "mean",
    density: float = 0.2,
    scale: float = 1.0,
    tolerance: float = 1e-5,
) -> Model:
    """Merge in the shared left basis of the deltas joined along the input axis (2410.19735); the rest keeps the base.

    ``combine``: mean, or ties (trim over all layers' representations together, elect, mean).
    """
    taus = deltas(base, experts)
    bases, parts = {}, [dict[str, Array]() for _ in taus]
    for name in (n for n, t in taus[0].items() if t.ndim == 2):
        left, values, right = svd(np.hstack([tau[name] for tau in taus]))
        live = values > tolerance * values[0] if values[0] > 0 else values > 0
        bases[name] = left[:, live]
        for part, block in zip(parts, np.split(values[live, None] * right[live], len(taus), axis=1), strict=True):
            part[name] = block
    if combine == "ties":
        values = np.stack([flatten(ties_trim(part, density)) for part in parts])
        vector = elect_and_combine(values, np.ones(len(taus)), "mean")
    else:
        vector = np.mean([flatten(part) for part in parts], axis=0)
    merged = unflatten(vector, parts[0])
    zero = {name: np.zeros_like(tau) for name, tau in taus[0].items()}
    return add(base, zero | {name: bases[name] @ merged[name] for name in bases}, scale)


def lines_factor(depth: int | None, depths: int, alpha: float, beta: float) -> float:
    """alpha + beta depth / (L - 1); alpha outside blocks; alpha + beta if there is one block (2410.17146)."""
    if depth is None:
        return alpha
    return alpha + beta * (depth / (depths - 1) if depths > 1 else 1.0)


def lines_alpha(base: Model, experts: Sequence[Model], merged: Model) -> float:
    """|sum of deltas|_1 / |merged delta|_1 / N."""
    total = np.sum([flatten(tau) for tau in deltas(base, experts)], axis=0)
    return float(np.abs(total).sum() / np.abs(flatten(deltas(base, [merged])[0])).sum() / len(experts))


def lines(
    base: Model, merged: Model, *, depth: Mapping[str, int | None], depths: int, alpha: float, beta: float
) -> Model:
    """Base + factor(depth of the tensor) * (merged - base); ``merged`` has scale 1."""
    tau = deltas(base, [merged])[0]
    return add(base, {name: lines_factor(depth[name], depths, alpha, beta) * t for name, t in tau.items()})


def opcm_project(merged: Array, tau: Array, alpha: float) -> Array:
    """Remove from ``tau`` what lies along the merged delta's singular pairs and in its leading block."""
    if not np.any(merged):
        return tau
    left, values, right = np.linalg.svd(merged)
    inner = left.T @ tau @ right.T
    for i in range(rank_of(values, merged.shape)):
        inner[i, i] = 0
    lead = int(np.argmax(np.cumsum(values) / values.sum() > alpha))
    inner[:lead, :lead] = 0
    return left @ inner @ right


def opcm(base: Model, experts: Sequence[Model], *, alpha: float = 0.5, plain: Collection[str] = ()) -> Model:
    """Add the experts one after another, projected, and hold the mean norm of their deltas (2501.09522).

    Matrices named in ``plain`` (embeddings: only linear layers are projected) are added as they are.
    """
    taus = deltas(base, experts)
    merged, factor = taus[0], 1.0
    norms = [float(np.linalg.norm(flatten(tau))) for tau in taus]
    for step, tau in enumerate(taus[1:], start=2):
        matrices = {name for name, tensor in tau.items() if tensor.ndim == 2 and name not in plain}
        new = {n: opcm_project(merged[n], t, alpha) if n in matrices else t for n, t in tau.items()}
        joint = {n: factor * merged[n] + new[n] for n in merged}
        factor = float(np.linalg.norm(flatten(joint))) / float(np.mean(norms[:step]))
        merged = {n: t / factor for n, t in joint.items()}
    return add(base, merged)


def doge_shared_basis(taus: Sequence[Array], subspace: int) -> Array:
    """Leading floor(r / subspace) left vectors of the concatenated leading left vectors of the tasks."""
    rank = min(taus[0].shape)
    if rank < max(subspace, len(taus)):
        return np.zeros((taus[0].shape[0], 0))
    left, _, _ = joined_factors(taus, rank // len(taus))
    return svd(left)[0][:, : rank // subspace]


def doge_merge(
    taus: Sequence[Array], masks: Sequence[Array], *, eta: float, steps: int, rate: float, subspace: int
) -> Array:
    """Sum of lambda_i (tau_i + delta) mask_i with lambda_i = eta / |tau_i| and a shared delta found by Adam."""
    norms = [float(np.linalg.norm(tau)) for tau in taus]
    factors = [eta / norm if norm > 0 else 0.0 for norm in norms]
    basis = doge_shared_basis(taus, subspace)
    mixed = sum(f * tau for f, tau in zip(factors, taus, strict=True))

    def gradient(shift: Array) -> Array:
        rest = mixed + sum(factors) * shift
        slopes = [(tau * (tau - rest)).sum(1, keepdims=True) * tau for tau in taus]
        raw = -2 * sum(factors) * sum(slopes)
        return raw - basis @ (basis.T @ raw)

    shift = adam(np.zeros_like(mixed), gradient, steps, rate)
    return sum(f * (tau + shift) * mask for f, tau, mask in zip(factors, taus, masks, strict=True))


def doge_ta(
    base: Model,
    experts: Sequence[Model],
    *,
    eta: float = 0.07,
    steps: int = 400,
    learning_rate: float = 1e-4,
    subspace: int = 6,
    density: float = 0.3,
    extra: int = 1,
) -> Model:
    """DOGE-TA (2501.01230) on every matrix; other tensors keep the base.

    Masks hold the floor(density * d) + ``extra`` largest |tau_i| of the whole model.
    """
    taus = deltas(base, experts)
    vectors = [flatten(tau) for tau in taus]
    masks = [unflatten(largest(vector, int(density * vector.size) + extra), taus[0]) for vector in vectors]
    result = named(base)
    for name, array in result.items():
        if array.ndim == 2:
            result[name] = array + doge_merge(
                [tau[name] for tau in taus],
                [mask[name] for mask in masks],
                eta=eta,
                steps=steps,
                rate=learning_rate,
                subspace=subspace,
            )
    return like(result, base)
