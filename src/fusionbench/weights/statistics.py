"""BatchNorm statistics of a merged model: mean and variance belong together, so no method sees them. No torch here."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusionbench.errors import IncompatibleModels
from fusionbench.weights.finite import bad_input
from fusionbench.weights.headers import NUMPY, entries
from fusionbench.weights.plan import Input, Plan, Step

Numbers = np.ndarray[Any, np.dtype[np.float64]]


def merge_batch_norm(plan: Plan, step: Step) -> memoryview:
    """Return the merged running mean or variance as bytes.

    The mean is μ = Σ wᵢ·μᵢ; the variance is that of the mixture, Σ wᵢ·(σᵢ² + (μᵢ − μ)²), with wᵢ the method's weights
    divided by their sum, or 1/N.

    Raises:
        IncompatibleModels: where a variance has no mean beside it.
        NotFinite: where a statistic is NaN or Inf.
    """
    count = len(step.experts)
    weights = _normalised(step.parameters.get("weights"), count)
    own = [_read(plan, place) for place in step.experts]
    result = _weighted(weights, own)
    if step.output.name.endswith("running_var"):
        means = [_read(plan, _mean_of(plan, place)) for place in step.experts]
        mean = _weighted(weights, means)
        result = _weighted(weights, [v + (m - mean) ** 2 for v, m in zip(own, means, strict=True)])
    if step.output.dtype not in ("F32", "F64"):
        from fusionbench.weights.tensors import cast

        return cast(result, "F64", step.output)
    return memoryview(result.astype(NUMPY[step.output.dtype]).tobytes())


def _normalised(weights: Sequence[float] | float | None, count: int) -> list[float]:
    given = list(weights) if isinstance(weights, Sequence) else [1.0] * count
    total = sum(given)
    return [w / total for w in given] if min(given) >= 0 and total > 0 else [1 / count] * count


def _weighted(weights: Sequence[float], rows: Sequence[Numbers]) -> Numbers:
    total = weights[0] * rows[0]
    for weight, row in zip(weights[1:], rows[1:], strict=True):
        total = total + weight * row
    return total


def _read(plan: Plan, place: Input) -> Numbers:
    source = plan.sources[place.source]
    raw = entries(source, place.spec)
    bits = place.spec.dtype == "BF16"
    values: Numbers = ((raw.astype(np.uint32) << 16).view(np.float32) if bits else raw).astype(np.float64)
    wild = np.flatnonzero(~np.isfinite(values))
    if len(wild):
        raise bad_input(source.label, place.spec, int(wild[0]), values[wild[0]])
    return values


def _mean_of(plan: Plan, variance: Input) -> Input:
    source = plan.sources[variance.source]
    name = variance.spec.name.removesuffix("running_var") + "running_mean"
    if name not in source.specs:
        raise IncompatibleModels(f"{source.label} has {variance.spec.name}, but no {name} beside it.")
    return Input(variance.source, source.specs[name])
