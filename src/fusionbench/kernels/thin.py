"""Drop entries at random by a counter, rescale the rest, then sum them or elect a sign: DARE in one pass."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusionbench.kernels import Block, Kernel, Place
from fusionbench.kernels._compile import compiled
from fusionbench.kernels.combine import _sum, divisor
from fusionbench.kernels.consensus import COMBINE, merge_agreeing
from fusionbench.kernels.streams import stream_key


@compiled
def thin(row: Block, key: np.uint64, start: np.uint64, share: np.float32, divide: bool) -> None:
    """Zero the entries whose number in [0, 1) is not below `share`; divide the others by it where asked.

    The number of an entry is SplitMix64 of `key` and its flat index, 24 bits of it, as `methods.uniform` draws it.
    """
    golden, first, second = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
    for i in range(row.shape[0]):
        state = (start + np.uint64(i)) * golden + key
        state = (state ^ (state >> np.uint64(30))) * first
        state = (state ^ (state >> np.uint64(27))) * second
        state = state ^ (state >> np.uint64(31))
        number = np.float32(state >> np.uint64(40)) * np.float32(2.0**-24)
        value = row[i] / share if divide else row[i]
        row[i] = value if number < share else np.float32(0.0)


def _apply(
    out: Block, base: Block, inputs: Block, place: Place, prepared: None, *,
    site: Any, density: Sequence[float], weights: Sequence[float], scale: float, combine: str, normalize: bool,
    rescale: str, ties_density: float, keep: str, zero_sign: str, min_entries: int,
) -> None:  # fmt: skip
    """Fill `out` with θ₀ + λ times the sum, or the consensus, of the thinned deltas."""
    if math.prod(site.shape) >= min_entries:
        for row, share, expert in zip(inputs, density, site.experts, strict=True):
            if share < 1:
                key = np.uint64(stream_key(site.seed, site.name, expert))
                thin(row, key, np.uint64(place[1]), np.float32(share), rescale == "inverse")
    if combine == "linear":
        _sum(out, inputs, weights)
        if normalize:
            np.divide(out, np.float32(divisor(weights)), out=out)
    else:
        factors = np.asarray(weights, np.float32)
        merge_agreeing(out, inputs, factors, True, zero_sign == "positive", COMBINE["mean" if normalize else "sum"])
    np.multiply(out, np.float32(scale), out=out)
    np.add(base, out, out=out)


def _serves(parameters: dict[str, Any]) -> bool:
    ties = parameters["combine"] == "ties" and parameters["zero_sign"] == "majority"
    return parameters["rescale"] != "norm" and parameters["ties_density"] == 1 and not ties


THIN = Kernel(_apply, "deltas", serves=_serves, compiled=True, sited=True)
