"""Drop entries at random by a counter, rescale the rest, then sum them or elect a sign: DARE in one pass."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusionbench.kernels import Block, Kernel, Place
from fusionbench.kernels._compile import compiled
from fusionbench.kernels.combine import divisor
from fusionbench.kernels.compiled_tiles import STRIP, Raw, sum_strip
from fusionbench.kernels.consensus import COMBINE, merge_strip
from fusionbench.kernels.streams import stream_key

u32 = np.uint32


@compiled
def draw(numbers: Block, key: np.uint64, start: np.uint64) -> None:
    """Fill `numbers` with those in [0, 1) of the entries from `start` on; `methods.uniform` draws the same."""
    done, size = 0, numbers.shape[0]
    while done < size:
        place = start + np.uint64(done)
        low, high = np.uint32(place & np.uint64(0xFFFFFFFF)), place >> np.uint64(32)
        # Within so many entries the upper half of the index stays as it is.
        count = min(size - done, (1 << 32) - np.int64(low))
        second = np.uint32((key >> np.uint64(32)) + high * np.uint64(0x9E3779B9))
        _draw(numbers[done : done + count], np.uint32(np.uint32(key & np.uint64(0xFFFFFFFF)) + low), second)
        done += count


@compiled
def _draw(numbers: Block, first: np.uint32, second: np.uint32) -> None:
    # The compiler widens whole numbers wherever it may; kept to 32 bits, eight or sixteen are worked on at once.
    for i in range(numbers.shape[0]):
        x = u32(first + u32(i))
        x = u32((x ^ (x >> u32(17))) * u32(0xED5AD4BB))
        x = u32((x ^ (x >> u32(11))) + second)
        x = u32(x * u32(0xAC4C1B51))
        x = u32((x ^ (x >> u32(15))) * u32(0x31848BAB))
        x = u32(x ^ (x >> u32(14)))
        numbers[i] = np.float32(np.int32(x >> u32(8))) * np.float32(2.0**-24)


def thin_by(row: Block, key: np.uint64, start: np.uint64, shares: Block, divide: bool) -> None:
    """Zero the entries whose number is not below their own share; divide the others by it where asked."""
    _thin_by(row, key, start, shares, divide, np.empty(STRIP, np.float32))


# Strip by strip and step by step: only such loops run on whole vectors.
@compiled
def _thin_by(row: Block, key: np.uint64, start: np.uint64, shares: Block, divide: bool, numbers: Block) -> None:
    for first in range(0, row.shape[0], STRIP):
        strip, share = row[first : first + STRIP], shares[first : first + STRIP]
        drawn = numbers[: strip.shape[0]]
        draw(drawn, key, start + np.uint64(first))
        if divide:
            for i in range(strip.shape[0]):
                strip[i] = strip[i] / share[i]
        for i in range(strip.shape[0]):
            strip[i] = strip[i] if drawn[i] < share[i] else np.float32(0.0)


@compiled
def _thin(strip: Block, key: np.uint64, start: np.uint64, share: np.float32, divide: bool, drawn: Block) -> None:
    draw(drawn, key, start)
    if divide:
        for i in range(strip.shape[0]):
            strip[i] = strip[i] / share if drawn[i] < share else np.float32(0.0)
    else:
        for i in range(strip.shape[0]):
            strip[i] = strip[i] if drawn[i] < share else np.float32(0.0)


@compiled
def _thin_and_merge(
    out: Block, base: Block, inputs: Block, keys: Raw, start: np.uint64, shares: Block, divide: bool, weights: Block,
    total: np.float32, scale: np.float32, linear: bool, positive: bool, combine: int, room: Block,
) -> None:  # fmt: skip
    for first in range(0, out.shape[0], STRIP):
        merged, origin = out[first : first + STRIP], base[first : first + STRIP]
        count = merged.shape[0]
        for row in range(inputs.shape[0]):
            if shares[row] < np.float32(1.0):
                strip = inputs[row, first : first + count]
                _thin(strip, keys[row], start + np.uint64(first), shares[row], divide, room[0, :count])
        if linear:
            sum_strip(merged, inputs, first, weights)
            for i in range(count):
                merged[i] = merged[i] / total
        else:
            merge_strip(merged, inputs, first, weights, True, positive, combine, room[0], room[1])
        for i in range(count):
            merged[i] = origin[i] + merged[i] * scale


def _apply(
    out: Block, base: Block, inputs: Block, place: Place, prepared: None, *,
    site: Any, density: Sequence[float], weights: Sequence[float], scale: float, combine: str, normalize: bool,
    rescale: str, ties_density: float, keep: str, zero_sign: str, min_entries: int,
) -> None:  # fmt: skip
    """Fill `out` with θ₀ + λ times the sum, or the consensus, of the thinned deltas."""
    small = math.prod(site.shape) < min_entries
    shares = np.asarray([1.0 if small else share for share in density], np.float32)
    keys = np.asarray([stream_key(site.seed, site.name, expert) for expert in site.experts], np.uint64)
    linear = combine == "linear"
    _thin_and_merge(
        out, base, inputs, keys, np.uint64(place[1]), shares, rescale == "inverse", np.asarray(weights, np.float32),
        np.float32(divisor(weights) if linear and normalize else 1.0), np.float32(scale), linear,
        zero_sign == "positive", COMBINE["mean" if normalize else "sum"], np.empty((2, STRIP), np.float32),
    )  # fmt: skip


def _serves(parameters: dict[str, Any]) -> bool:
    ties = parameters["combine"] == "ties" and parameters["zero_sign"] == "majority"
    return parameters["rescale"] != "norm" and parameters["ties_density"] == 1 and not ties


THIN = Kernel(_apply, "deltas", serves=_serves, compiled=True, sited=True)
