"""Drop entries at random by a counter, rescale the rest, then sum them or elect a sign: DARE in one pass."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fusionbench.kernels import Block, Kernel, Place
from fusionbench.kernels._compile import compiled
from fusionbench.kernels.combine import divisor
from fusionbench.kernels.compiled_tiles import STRIP, Bits, Raw, delta_strip, sum_strip
from fusionbench.kernels.consensus import COMBINE, merge_strip
from fusionbench.kernels.streams import stream_key

u32 = np.uint32


@compiled
def draw(numbers: Block, key: np.uint64, start: np.uint64) -> None:
    """Fill `numbers` with those in [0, 1) of the entries from `start` on; `methods.uniform` draws the same."""
    done = 0
    while done < numbers.shape[0]:
        count, first, second = _run(key, start + np.uint64(done), numbers.shape[0] - done)
        _draw(numbers[done : done + count], first, second)
        done += count


@compiled
def _run(key: np.uint64, place: np.uint64, size: int) -> tuple[Any, np.uint32, np.uint32]:
    """Return how many of `size` entries from `place` on have an index of one upper half, and what is hashed of it."""
    low, high = np.uint32(place & np.uint64(0xFFFFFFFF)), place >> np.uint64(32)
    second = np.uint32((key >> np.uint64(32)) + high * np.uint64(0x9E3779B9))
    return min(size, (1 << 32) - np.int64(low)), np.uint32(np.uint32(key & np.uint64(0xFFFFFFFF)) + low), second


@compiled
def _word(x: np.uint32, second: np.uint32) -> np.uint32:
    # The compiler widens whole numbers wherever it may; kept to 32 bits, eight or sixteen are worked on at once.
    x = u32((x ^ (x >> u32(17))) * u32(0xED5AD4BB))
    x = u32((x ^ (x >> u32(11))) + second)
    x = u32(x * u32(0xAC4C1B51))
    x = u32((x ^ (x >> u32(15))) * u32(0x31848BAB))
    return u32(x ^ (x >> u32(14)))


@compiled
def _draw(numbers: Block, first: np.uint32, second: np.uint32) -> None:
    for i in range(numbers.shape[0]):
        word = _word(u32(first + u32(i)), second)
        numbers[i] = np.float32(np.int32(word >> u32(8))) * np.float32(2.0**-24)


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
def _thin(strip: Block, key: np.uint64, start: np.uint64, share: np.float32, divisor: np.float32) -> None:
    """Zero the entries whose number is not below `share`, which is below 1; divide the others."""
    # A number is a word's upper 24 bits by 2^24: words are compared, without making numbers of them.
    limit = np.uint32(np.uint32(np.ceil(np.float64(share) * 2.0**24)) << np.uint32(8))
    done = 0
    while done < strip.shape[0]:
        count, first, second = _run(key, start + np.uint64(done), strip.shape[0] - done)
        _thin_run(strip[done : done + count], first, second, limit, divisor)
        done += count


@compiled
def _thin_run(strip: Block, first: np.uint32, second: np.uint32, limit: np.uint32, divisor: np.float32) -> None:
    for i in range(strip.shape[0]):
        word = _word(u32(first + u32(i)), second)
        strip[i] = strip[i] / divisor if word < limit else np.float32(0.0)


class _Recipe(NamedTuple):
    """What the compiled loops are given of a tensor's parameters.

    Attributes:
        keys: where each expert's random numbers begin, `(experts,)`.
        shares: of the entries that stay, 1 where none is dropped, `(experts,)`.
        divisors: of the entries that stay, `(experts,)`.
        weights: `(experts,)`.
        total: divides the sum.
        scale: of what is merged.
        linear: a sum, not a consensus.
        positive: whether an exact tie elects plus.
        combine: see `consensus.merge_agreeing`.
    """

    keys: Raw
    shares: Block
    divisors: Block
    weights: Block
    total: np.float32
    scale: np.float32
    linear: bool
    positive: bool
    combine: int


@compiled
def _merge_strip(
    merged: Block, origin: Block, deltas: Block, first: int, start: np.uint64, keys: Raw, shares: Block,
    divisors: Block, weights: Block, total: np.float32, scale: np.float32, linear: bool, positive: bool, combine: int,
    room: Block,
) -> None:  # fmt: skip
    """Fill `merged` from the columns of `deltas` from `first` on, which belong to the tensor's entries from `start` on.

    `room` `(2, STRIP)` is worked in.
    """
    count = merged.shape[0]
    for row in range(deltas.shape[0]):
        if shares[row] < np.float32(1.0):
            _thin(deltas[row, first : first + count], keys[row], start, shares[row], divisors[row])
    if linear:
        sum_strip(merged, deltas, first, weights)
        for i in range(count):
            merged[i] = merged[i] / total
    else:
        merge_strip(merged, deltas, first, weights, True, positive, combine, room[0], room[1])
    for i in range(count):
        merged[i] = origin[i] + merged[i] * scale


@compiled
def _merge(
    out: Block, base: Block, inputs: Block, start: np.uint64, keys: Raw, shares: Block, divisors: Block,
    weights: Block, total: np.float32, scale: np.float32, linear: bool, positive: bool, combine: int, room: Block,
) -> None:  # fmt: skip
    for first in range(0, out.shape[0], STRIP):
        _merge_strip(
            out[first : first + STRIP], base[first : first + STRIP], inputs, first, start + np.uint64(first), keys,
            shares, divisors, weights, total, scale, linear, positive, combine, room,
        )  # fmt: skip


@compiled
def _merge_bits(
    out: Block, pointers: Any, kind: int, start: np.uint64, keys: Raw, shares: Block, divisors: Block,
    weights: Block, total: np.float32, scale: np.float32, linear: bool, positive: bool, combine: int, room: Block,
    strips: Block, patterns: Raw,
) -> bool:  # fmt: skip
    wild = np.uint32(0)
    for first in range(0, out.shape[0], STRIP):
        merged = out[first : first + STRIP]
        count = merged.shape[0]
        wild |= delta_strip(pointers, kind, first, count, patterns, strips)
        _merge_strip(
            merged, strips[0, :count], strips[1:], 0, start + np.uint64(first), keys, shares, divisors, weights, total,
            scale, linear, positive, combine, room,
        )  # fmt: skip
    return bool(wild == 0)


def _apply(out: Block, base: Block, inputs: Block, place: Place, prepared: None, **parameters: Any) -> None:
    """Fill `out` with θ₀ + λ times the sum, or the consensus, of the thinned deltas."""
    _merge(out, base, inputs, np.uint64(place[1]), *_recipe(**parameters), np.empty((2, STRIP), np.float32))


def _direct(out: Block, bits: Bits, place: Place, prepared: None, **parameters: Any) -> bool:
    """Do the same from the bits of base and experts, in one pass; tell whether all of them are finite."""
    rows = len(bits.pointers.addresses)
    strips, room = np.empty((rows, STRIP), np.float32), np.empty((2, STRIP), np.float32)
    recipe = _recipe(**parameters)
    start, patterns = np.uint64(place[1]), strips.view(np.uint32)
    return _merge_bits(out, bits.pointers, bits.kind, start, *recipe, room, strips, patterns)


def _recipe(
    *, site: Any, density: Sequence[float], weights: Sequence[float], scale: float, combine: str, normalize: bool,
    rescale: str, ties_density: float, keep: str, zero_sign: str, min_entries: int,
) -> _Recipe:  # fmt: skip
    small = math.prod(site.shape) < min_entries
    shares = np.asarray([1.0 if small else share for share in density], np.float32)
    keys = np.asarray([stream_key(site.seed, site.name, expert) for expert in site.experts], np.uint64)
    linear = combine == "linear"
    return _Recipe(
        keys, shares, shares if rescale == "inverse" else np.ones_like(shares), np.asarray(weights, np.float32),
        np.float32(divisor(weights) if linear and normalize else 1.0), np.float32(scale), linear,
        zero_sign == "positive", COMBINE["mean" if normalize else "sum"],
    )  # fmt: skip


def _serves(parameters: dict[str, Any]) -> bool:
    ties = parameters["combine"] == "ties" and parameters["zero_sign"] == "majority"
    return parameters["rescale"] != "norm" and parameters["ties_density"] == 1 and not ties


THIN = Kernel(_apply, "deltas", serves=_serves, compiled=True, sited=True, direct=_direct)
