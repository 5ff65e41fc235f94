"""Keep a band of magnitudes of each tensor, neither the largest nor the small ones: Breadcrumbs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusionbench.errors import ConfigError
from fusionbench.kernels import Block, Kernel, Place, Scan
from fusionbench.kernels.consensus import add_merged
from fusionbench.kernels.counting import Counts, drop_above, trim_below
from fusionbench.kernels.passes import STATE
from fusionbench.kernels.selection import Keep, Thresholds, kept, select


def staying(size: int, top_drop: float, density: float | None, bottom_drop: float | None, keep: Keep) -> int:
    """Return how many of `size` entries stay, by the share that stays or by those that go.

    Raises:
        ConfigError: where both shares are given, or neither.
    """
    if density is not None and bottom_drop is not None:
        raise ConfigError(
            f"method.density={density} and method.bottom_drop={bottom_drop} both say how many entries stay: set one of "
            "them to null."
        )
    if density is not None:
        return kept(density, size, keep)
    if bottom_drop is None:
        raise ConfigError(
            "method.density and method.bottom_drop are both null: set density=0.143, or bottom_drop=0.85 as the paper."
        )
    left = max(size - kept(top_drop, size, "exact") - kept(bottom_drop, size, "exact"), 0)
    return min(size, {"exact": left, "official": left + 1}.get(keep, max(left, 1)))


def band(size: int, top_drop: float, density: float | None, bottom_drop: float | None, keep: Keep) -> tuple[int, int]:
    """Return how many of the largest entries hold the band and what is above it, and how many of these are dropped."""
    stay = staying(size, top_drop, density, bottom_drop, keep)
    top = min(kept(top_drop, size, "exact"), size - stay)
    return top + stay, top


def _prepare(scan: Scan, at: Mapping[str, Mapping[str, Any]], **parameters: Any) -> Thresholds | None:
    """Return the cuts of each tensor: first below every expert's band, then above it."""

    def want(name: str, size: int) -> Counts:
        own = at[name]
        shares = zip(own["top_drop"], own["density"], own["bottom_drop"], strict=True)
        bands = [band(size, top, share, bottom, own["keep"]) for top, share, bottom in shares]
        return np.array([*(below for below, _ in bands), *(above for _, above in bands)], np.int64)

    return select(scan, want, scope="tensor")


def _apply(
    out: Block, base: Block, inputs: Block, place: Place, prepared: Thresholds, *,
    top_drop: Any, density: Any, bottom_drop: Any, weights: Sequence[float], scale: float, granularity: str,
    combine: str, normalize: bool, rescale: str, keep: Keep, zero_sign: str,
) -> None:  # fmt: skip
    """Fill `out` with θ₀ + λ times the sum, or the consensus, of the deltas' bands."""
    targets, quota = prepared.at(place)
    count = len(inputs)
    trim_below(inputs.view(np.uint32), targets[:count], quota[:count])
    drop_above(inputs.view(np.uint32), targets[count:], quota[count:])
    add_merged(out, base, inputs, weights, scale, combine=combine, normalize=normalize, zero_sign=zero_sign)


def _serves(parameters: dict[str, Any]) -> bool:
    return bool(parameters["granularity"] == "tensor" and parameters["rescale"] == "none")


BAND = Kernel(
    _apply,
    "deltas",
    prepare=_prepare,
    serves=_serves,
    compiled=True,
    whole=lambda _: True,
    state=lambda experts: 2 * experts * STATE,
)
