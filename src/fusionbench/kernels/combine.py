"""Weighted sums of values and of deltas: the averages, task arithmetic, ExPO, passthrough. Pure NumPy, tile by tile.

Terms are multiplied and added one expert after the other, without fused operations, as the torch functions do.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusionbench.errors import ConfigError
from fusionbench.kernels import Block, Kernel, Place


def divisor(weights: Sequence[float]) -> float:
    """Return Σ wᵢ, by which a weighted sum is divided.

    Raises:
        ConfigError: where it is zero.
    """
    total = sum(weights)
    if abs(total) < 1e-12:
        raise ConfigError(f"method.weights sum to {total}: they cannot be normalised. Add normalize=false.")
    return total


def check_single(experts: int) -> None:
    """Refuse several models where one is passed through.

    Raises:
        ConfigError: where there is not exactly one expert.
    """
    if experts != 1:
        raise ConfigError(
            f"passthrough takes exactly one expert for each layer, got {experts}: list slices of one source each."
        )


def _sum(out: Block, inputs: Block, weights: Sequence[float]) -> None:
    """Fill `out` with Σ wᵢ·inputsᵢ, in the experts' order."""
    np.multiply(inputs[0], np.float32(weights[0]), out=out)
    for row, weight in zip(inputs[1:], weights[1:], strict=True):
        np.multiply(row, np.float32(weight), out=row)
        np.add(out, row, out=out)


def average(out: Block, base: Block | None, inputs: Block, place: Place, prepared: None) -> None:
    """Fill `out` with Σ θᵢ / N."""
    np.copyto(out, inputs[0])
    for row in inputs[1:]:
        np.add(out, row, out=out)
    np.divide(out, np.float32(len(inputs)), out=out)


def weighted_average(
    out: Block, base: Block | None, inputs: Block, place: Place, prepared: None, *,
    weights: Sequence[float], normalize: bool, relative_to_base: bool,
) -> None:  # fmt: skip
    """Fill `out` with Σ wᵢ·θᵢ, divided by Σ wᵢ where `normalize`."""
    _sum(out, inputs, weights)
    if normalize:
        np.divide(out, np.float32(divisor(weights)), out=out)


def add_deltas(
    out: Block, base: Block, inputs: Block, place: Place, prepared: None, *,
    weights: Sequence[float], scale: float,
) -> None:  # fmt: skip
    """Fill `out` with θ₀ + λ·Σ wᵢ·τᵢ."""
    _sum(out, inputs, weights)
    np.multiply(out, np.float32(scale), out=out)
    np.add(base, out, out=out)


def scaled(
    out: Block, base: Block | None, inputs: Block, place: Place, prepared: None, *, scale: Sequence[float]
) -> None:
    """Fill `out` with s·θ₁."""
    check_single(len(inputs))
    np.multiply(inputs[0], np.float32(scale[0]), out=out)


def copied(
    out: Block, base: Block | None, inputs: Block, place: Place, prepared: None, *, layers: object, expert: object
) -> None:
    """Fill `out` with θ₁; which layers of which model it is of is the plan's business."""
    check_single(len(inputs))
    out[:] = inputs[0]


def _absolute(parameters: dict[str, Any]) -> bool:
    return not parameters["relative_to_base"]


AVERAGE = Kernel(average, "values")
WEIGHTED_AVERAGE = Kernel(weighted_average, "values", serves=_absolute)
ADD_DELTAS = Kernel(add_deltas, "deltas")
SCALED = Kernel(scaled, "values")
COPIED = Kernel(copied, "values")
