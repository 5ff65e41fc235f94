"""Merges whose weights follow from angles: SLERP and Model Stock, as inner products and then a weighted sum."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusionbench.errors import ConfigError
from fusionbench.kernels import Block, Kernel, Place, Scan
from fusionbench.kernels.compiled_tiles import weighted_sum
from fusionbench.kernels.moments import Numbers, products, state_of

Coefficients = Mapping[str, Sequence[float]]
STRAIGHT = 0.9995
"""Magnitude of the cosine above which an arc and its chord are told apart by rounding only."""


def check_ends(experts: int, base: bool) -> None:
    """Refuse anything but two ends: two experts, or a base and one expert.

    Raises:
        ConfigError: for any other number.
    """
    if experts == 2 or (experts == 1 and base):
        return
    got = f"{experts} expert{'s' * (experts != 1)}" + (" and a base" if base else "")
    raise ConfigError(
        f"slerp goes from one model to another; it got {got}. Name two experts, or a base and one expert; for more "
        "there are multislerp and karcher."
    )


def check_several(experts: int, base: bool = True) -> None:
    """Refuse a single expert, between which and itself there is no angle, whether or not there is a base.

    Raises:
        ConfigError: for fewer than two.
    """
    if experts < 2:
        raise ConfigError("model_stock needs two experts or more: with one there is no angle. Add an expert.")


def arc(inner: Numbers, t: float, zero_norm: str, straight: float = STRAIGHT) -> tuple[float, float]:
    """Return the coefficients of two vectors at share t of the arc between them, from their inner products `(2, 2)`.

    As `methods._sphere.arc` has them, whose sines may differ in the last place. Beyond the cosine
    `straight` the chord is taken.
    """
    size = math.sqrt(inner[0, 0]) * math.sqrt(inner[1, 1])
    cosine = inner[0, 1] / size if size > 0 else float(zero_norm == "line")
    cosine = min(max(cosine, -1.0), 1.0)
    if abs(cosine) > straight or 1 - cosine * cosine <= 1e-16:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _arcs(scan: Scan, at: Mapping[str, Mapping[str, Any]], **parameters: Any) -> Coefficients:
    return {name: arc(inner[-2:, -2:], at[name]["t"], at[name]["zero_norm"]) for name, inner in products(scan).items()}


def _along_arc(
    out: Block, base: None, inputs: Block, place: Place, prepared: Coefficients, *, t: float, zero_norm: str
) -> None:
    """Fill `out` with the weighted sum of the last two models."""
    weighted_sum(out, inputs[-2:], np.asarray(prepared[place[0]], np.float32))


def stock_ratio(inner: Numbers, small_norms: str, *, clamp: bool) -> float:
    """Return t of the task vectors' inner products `(N, N)`, as `methods.model_stock` has it, by the mean cosine."""
    count = len(inner)
    norms = [math.sqrt(inner[i, i]) for i in range(count)]
    total = 0.0
    pairs = list(itertools.combinations(range(count), 2))
    for i, j in pairs:
        size = norms[i] * norms[j]
        divisor = {"exact": size if size > 0 else 1.0, "floor": max(size, 1e-6), "offset": size + 1e-8}[small_norms]
        total += min(max(inner[i, j] / divisor, -1.0), 1.0)
    cosine = total / len(pairs)
    divided = 1 + (count - 1) * cosine
    ratio = count * cosine / divided if abs(divided) > 1e-6 else 0.0
    return (min(max(ratio, 0.0), 1.0) if divided > 0 else 0.0) if clamp else ratio


def _stocks(scan: Scan, at: Mapping[str, Mapping[str, Any]], **parameters: Any) -> Coefficients:
    found = {}
    for name, inner in products(scan).items():
        share = stock_ratio(inner, at[name]["small_norms"], clamp=at[name]["clamp"]) / len(inner)
        found[name] = (share,) * len(inner)
    return found


def _toward_mean(
    out: Block, base: Block, inputs: Block, place: Place, prepared: Coefficients, *,
    average: str, granularity: str, clamp: bool, small_norms: str,
) -> None:  # fmt: skip
    """Fill `out` with θ₀ + t·(mean of the task vectors)."""
    weighted_sum(out, inputs, np.asarray(prepared[place[0]], np.float32))
    np.add(base, out, out=out)


def _serves_stock(parameters: dict[str, Any]) -> bool:
    return bool(parameters["average"] == "cosine" and parameters["granularity"] == "tensor")


ARC = Kernel(
    _along_arc, "models", prepare=_arcs, compiled=True, state=lambda experts: state_of(experts + 1), check=check_ends
)
STOCK = Kernel(
    _toward_mean, "deltas", prepare=_stocks, serves=_serves_stock, compiled=True, state=state_of, check=check_several
)
