"""Weighted sums of values and of deltas: the averages, task arithmetic, ExPO, passthrough, tile by tile.

Terms are multiplied and added one expert after the other, without fused operations, as the torch functions do.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fusionbench.errors import ConfigError
from fusionbench.kernels import Block, Kernel, Place
from fusionbench.kernels._compile import compiled
from fusionbench.kernels.compiled_tiles import STRIP, Bits, Raw, delta_strip, sum_strip, weighted_sum, widen_strip


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


def average(out: Block, base: Block | None, inputs: Block, place: Place, prepared: None) -> None:
    """Fill `out` with Σ θᵢ / N."""
    weighted_sum(out, inputs, np.ones(len(inputs), np.float32))
    np.divide(out, np.float32(len(inputs)), out=out)


def weighted_average(
    out: Block, base: Block | None, inputs: Block, place: Place, prepared: None, *,
    weights: Sequence[float], normalize: bool, relative_to_base: bool,
) -> None:  # fmt: skip
    """Fill `out` with Σ wᵢ·θᵢ, divided by Σ wᵢ where `normalize`."""
    weighted_sum(out, inputs, np.asarray(weights, np.float32))
    if normalize:
        np.divide(out, np.float32(divisor(weights)), out=out)


def add_deltas(
    out: Block, base: Block, inputs: Block, place: Place, prepared: None, *,
    weights: Sequence[float], scale: float,
) -> None:  # fmt: skip
    """Fill `out` with θ₀ + λ·Σ wᵢ·τᵢ."""
    weighted_sum(out, inputs, np.asarray(weights, np.float32))
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


@compiled
def _sum_bits(
    out: Block, pointers: Any, kind: int, weights: Block, total: np.float32, strips: Block, patterns: Raw
) -> bool:
    wild = np.uint32(0)
    for first in range(0, out.shape[0], STRIP):
        merged = out[first : first + STRIP]
        count = merged.shape[0]
        for row in range(strips.shape[0]):
            wild |= widen_strip(pointers[row], first, kind, patterns[row, :count], strips[row, :count])
        sum_strip(merged, strips, 0, weights)
        for i in range(count):
            merged[i] = merged[i] / total
    return bool(wild == 0)


@compiled
def _add_bits(
    out: Block, pointers: Any, kind: int, weights: Block, scale: np.float32, strips: Block, patterns: Raw
) -> bool:
    wild = np.uint32(0)
    for first in range(0, out.shape[0], STRIP):
        merged = out[first : first + STRIP]
        count = merged.shape[0]
        wild |= delta_strip(pointers, kind, first, count, patterns, strips)
        sum_strip(merged, strips[1:], 0, weights)
        origin = strips[0, :count]
        for i in range(count):
            merged[i] = origin[i] + merged[i] * scale
    return bool(wild == 0)


def _from_bits(loops: Callable[..., bool], out: Block, bits: Bits, weights: Sequence[float], number: float) -> bool:
    """Run compiled loops that read the files' bits, with a number by which the sum is divided or multiplied."""
    strips = np.empty((len(bits.pointers.addresses), STRIP), np.float32)
    return loops(out, *bits, np.asarray(weights, np.float32), np.float32(number), strips, strips.view(np.uint32))


def _direct_average(out: Block, bits: Bits, place: Place, prepared: None) -> bool:
    count = len(bits.pointers.addresses)
    return _from_bits(_sum_bits, out, bits, [1.0] * count, count)


def _direct_weighted_average(
    out: Block, bits: Bits, place: Place, prepared: None, *,
    weights: Sequence[float], normalize: bool, relative_to_base: bool,
) -> bool:  # fmt: skip
    return _from_bits(_sum_bits, out, bits, weights, divisor(weights) if normalize else 1.0)


def _direct_deltas(
    out: Block, bits: Bits, place: Place, prepared: None, *, weights: Sequence[float], scale: float
) -> bool:
    return _from_bits(_add_bits, out, bits, weights, scale)


def _absolute(parameters: dict[str, Any]) -> bool:
    return not parameters["relative_to_base"]


AVERAGE = Kernel(average, "values", compiled=True, direct=_direct_average)
WEIGHTED_AVERAGE = Kernel(weighted_average, "values", serves=_absolute, compiled=True, direct=_direct_weighted_average)
ADD_DELTAS = Kernel(add_deltas, "deltas", compiled=True, direct=_direct_deltas)
SCALED = Kernel(scaled, "values")
COPIED = Kernel(copied, "values")
