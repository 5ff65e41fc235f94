"""Drop entries at random by a counter, rescale the rest, then sum them or elect a sign: DARE in one pass."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusionbench.kernels import Block, Kernel, Place
from fusionbench.kernels._compile import compiled
from fusionbench.kernels.consensus import STRIP, add_merged
from fusionbench.kernels.streams import stream_key


@compiled
def number_of(key: np.uint64, index: np.uint64) -> np.float32:
    """Return the number in [0, 1) of an entry: SplitMix64 of `key` and its flat index, 24 bits of it.

    `methods.uniform` draws the same.
    """
    state = index * np.uint64(0x9E3779B97F4A7C15) + key
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = state ^ (state >> np.uint64(31))
    return np.float32(state >> np.uint64(40)) * np.float32(2.0**-24)


@compiled
def thin(row: Block, key: np.uint64, start: np.uint64, share: np.float32, divide: bool) -> None:
    """Zero the entries whose number is not below `share`; divide the others by it where asked."""
    for i in range(row.shape[0]):
        value = row[i] / share if divide else row[i]
        row[i] = value if number_of(key, start + np.uint64(i)) < share else np.float32(0.0)


def thin_by(row: Block, key: np.uint64, start: np.uint64, shares: Block, divide: bool) -> None:
    """Zero the entries whose number is not below their own share; divide the others by it where asked."""
    _thin_by(row, key, start, shares, divide, np.empty(STRIP, np.float32))


@compiled
def _thin_by(row: Block, key: np.uint64, start: np.uint64, shares: Block, divide: bool, numbers: Block) -> None:
    # Strip by strip and step by step: only such loops run on whole vectors.
    for first in range(0, row.shape[0], STRIP):
        strip, share = row[first : first + STRIP], shares[first : first + STRIP]
        index = start + np.uint64(first)
        for i in range(strip.shape[0]):
            numbers[i] = number_of(key, index + np.uint64(i))
        if divide:
            for i in range(strip.shape[0]):
                strip[i] = strip[i] / share[i]
        for i in range(strip.shape[0]):
            strip[i] = strip[i] if numbers[i] < share[i] else np.float32(0.0)


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
    add_merged(out, base, inputs, weights, scale, combine=combine, normalize=normalize, zero_sign=zero_sign)


def _serves(parameters: dict[str, Any]) -> bool:
    ties = parameters["combine"] == "ties" and parameters["zero_sign"] == "majority"
    return parameters["rescale"] != "norm" and parameters["ties_density"] == 1 and not ties


THIN = Kernel(_apply, "deltas", serves=_serves, compiled=True, sited=True)
