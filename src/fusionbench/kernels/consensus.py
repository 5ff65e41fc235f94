"""Elect a sign for every entry and merge what agrees with it: the second half of TIES and of its relatives."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusionbench.kernels import Block, Kernel, PartialScan, Place
from fusionbench.kernels._compile import compiled
from fusionbench.kernels.combine import divisor
from fusionbench.kernels.compiled_tiles import STRIP, Bits, Raw, delta_strip, weighted_sum
from fusionbench.kernels.counting import Counts, trim_below, trim_strip
from fusionbench.kernels.passes import STATE
from fusionbench.kernels.selection import At, Keep, Scope, Thresholds, thresholds

COMBINE = {"mean": 0, "sum": 1, "max": 2}


def merge_agreeing(
    out: Block, deltas: Block, weights: Block, elect_weighted: bool, positive: bool, combine: int
) -> None:
    """Fill `out` with the consensus of the rows.

    Args:
        out: `(entries,)`.
        deltas: `(experts, entries)`, trimmed.
        weights: `(experts,)`.
        elect_weighted: whether the election counts weighted deltas.
        positive: whether an exact tie elects plus (mergekit); otherwise such an entry is 0.
        combine: 0 mean over the agreeing weights, 1 sum, 2 largest magnitude.
    """
    sign, agreeing = np.empty((2, STRIP), np.float32)
    _merge_agreeing(out, deltas, weights, elect_weighted, positive, combine, sign, agreeing)


@compiled
def _merge_agreeing(
    out: Block, deltas: Block, weights: Block, elect_weighted: bool, positive: bool, combine: int, sign: Block,
    agreeing: Block,
) -> None:  # fmt: skip
    for first in range(0, out.shape[0], STRIP):
        merge_strip(
            out[first : first + STRIP], deltas, first, weights, elect_weighted, positive, combine, sign, agreeing
        )


@compiled
def merge_strip(
    merged: Block, deltas: Block, first: int, weights: Block, elect_weighted: bool, positive: bool, combine: int,
    sign: Block, agreeing: Block,
) -> None:  # fmt: skip
    """Fill `merged`, at most `STRIP` entries, with the consensus of the rows' columns from `first` on.

    `sign` and `agreeing` are room for as many entries; the rest is as for `merge_agreeing`.
    """
    one, zero = np.float32(1.0), np.float32(0.0)
    count = merged.shape[0]
    sign[:count] = zero
    agreeing[:count] = zero
    merged[:] = zero
    for row in range(deltas.shape[0]):
        factor = weights[row] if elect_weighted else one
        strip = deltas[row, first : first + count]
        for i in range(count):
            sign[i] += strip[i] * factor
    for i in range(count):
        total = sign[i]
        tie = one if positive else zero
        sign[i] = one if total > zero else (-one if total < zero else tie)
    for row in range(deltas.shape[0]):
        weight = weights[row]
        factor = weight if elect_weighted else one
        strip = deltas[row, first : first + count]
        if combine == 2:
            for i in range(count):
                value = strip[i] * weight
                agrees = (strip[i] * factor) * sign[i] > zero and abs(value) > abs(merged[i])
                merged[i] = value if agrees else merged[i]
        else:
            for i in range(count):
                agrees = (strip[i] * factor) * sign[i] > zero
                merged[i] += strip[i] * weight if agrees else zero
                agreeing[i] += weight if agrees else zero
    if combine == 0:
        for i in range(count):
            merged[i] = merged[i] / agreeing[i] if agreeing[i] != zero else merged[i]


def add_merged(
    out: Block, base: Block, inputs: Block, weights: Sequence[float], scale: float, *,
    combine: str, normalize: bool, zero_sign: str,
) -> None:  # fmt: skip
    """Fill `out` with θ₀ + λ times the weighted sum of sparsified deltas (`linear`), or their consensus (`ties`)."""
    if combine == "linear":
        weighted_sum(out, inputs, np.asarray(weights, np.float32))
        if normalize:
            np.divide(out, np.float32(divisor(weights)), out=out)
    else:
        factors = np.asarray(weights, np.float32)
        merge_agreeing(out, inputs, factors, True, zero_sign == "positive", COMBINE["mean" if normalize else "sum"])
    np.multiply(out, np.float32(scale), out=out)
    np.add(base, out, out=out)


def _prepare(scan: PartialScan, at: At, *, scope: Scope, keep: Keep, **others: Any) -> Thresholds | None:
    return thresholds(scan, at, scope=scope, keep=keep, part=scan)


def _apply(
    out: Block, base: Block, inputs: Block, place: Place, prepared: Thresholds | None, *,
    density: Any, weights: Sequence[float], scale: float, scope: Scope, combine: str, elect_on: str, trim: str,
    keep: Keep, zero_sign: str,
) -> None:  # fmt: skip
    """Fill `out` with θ₀ + λ·consensus of the trimmed deltas."""
    if prepared is not None:
        targets, quota = prepared.at(place)
        trim_below(inputs.view(np.uint32), targets, quota)
    factors = np.asarray(weights, np.float32)
    merge_agreeing(out, inputs, factors, elect_on == "weighted", zero_sign == "positive", COMBINE[combine])
    np.multiply(out, np.float32(scale), out=out)
    np.add(base, out, out=out)


@compiled
def _merge_bits(
    out: Block, pointers: Any, kind: int, trims: bool, targets: Raw, left: Counts, weights: Block,
    elect_weighted: bool, positive: bool, combine: int, scale: np.float32, strips: Block, patterns: Raw, room: Block,
) -> bool:  # fmt: skip
    wild = np.uint32(0)
    for first in range(0, out.shape[0], STRIP):
        merged = out[first : first + STRIP]
        count = merged.shape[0]
        wild |= delta_strip(pointers, kind, first, count, patterns, strips)
        if trims:
            for row in range(targets.shape[0]):
                left[row] -= trim_strip(patterns[row + 1, :count], targets[row], left[row])
        merge_strip(merged, strips[1:], 0, weights, elect_weighted, positive, combine, room[0], room[1])
        origin = strips[0, :count]
        for i in range(count):
            merged[i] = origin[i] + merged[i] * scale
    return bool(wild == 0)


def _direct(
    out: Block, bits: Bits, place: Place, prepared: Thresholds | None, *,
    density: Any, weights: Sequence[float], scale: float, scope: Scope, combine: str, elect_on: str, trim: str,
    keep: Keep, zero_sign: str,
) -> bool:  # fmt: skip
    """Do the same from the bits of base and experts, in one pass; tell whether all of them are finite."""
    strips = np.empty((len(weights) + 1, STRIP), np.float32)
    targets, quota = (np.zeros(0, np.uint32), np.zeros(0, np.int64)) if prepared is None else prepared.at(place)
    return _merge_bits(
        out, *bits, prepared is not None, targets, quota.copy(), np.asarray(weights, np.float32),
        elect_on == "weighted", zero_sign == "positive", COMBINE[combine], np.float32(scale), strips,
        strips.view(np.uint32), np.empty((2, STRIP), np.float32),
    )  # fmt: skip


def _serves(parameters: dict[str, Any]) -> bool:
    return bool(parameters["trim"] == "magnitude" and parameters["zero_sign"] != "majority")


def _ranks_tensors(parameters: dict[str, Any]) -> bool:
    return bool(parameters["scope"] == "tensor")


CONSENSUS = Kernel(
    _apply,
    "deltas",
    prepare=_prepare,
    serves=_serves,
    compiled=True,
    whole=_ranks_tensors,
    apart=_ranks_tensors,
    state=lambda experts: experts * STATE,
    direct=_direct,
)
