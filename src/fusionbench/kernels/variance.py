"""Select the entries on which experts differ, weigh them by mean squares, erase the minority's signs: SCE."""

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusionbench.kernels import Block, Kernel, Place, Scan, State, Visit
from fusionbench.kernels._compile import compiled
from fusionbench.kernels.counting import trim_below
from fusionbench.kernels.moments import Numbers, Sums, totals
from fusionbench.kernels.passes import STATE
from fusionbench.kernels.selection import Thresholds, select

STRIP = 1024
"""Entries whose sums stay in the first-level cache."""


def deviations(deltas: Block, out: Block) -> None:
    """Fill `out` with the standard deviation over the rows of `deltas`, taken in float64 and rounded once."""
    mean, squares = np.empty((2, STRIP))
    _deviations(deltas, out, mean, squares)


@compiled
def _deviations(deltas: Block, out: Block, mean: Numbers, squares: Numbers) -> None:
    count = np.float64(deltas.shape[0])
    for first in range(0, out.shape[0], STRIP):
        result = out[first : first + STRIP]
        width = result.shape[0]
        mean[:width] = 0.0
        squares[:width] = 0.0
        for row in range(deltas.shape[0]):
            strip = deltas[row, first : first + STRIP]
            for i in range(width):
                mean[i] += np.float64(strip[i])
        for i in range(width):
            mean[i] = mean[i] / count
        for row in range(deltas.shape[0]):
            strip = deltas[row, first : first + STRIP]
            for i in range(width):
                apart = np.float64(strip[i]) - mean[i]
                squares[i] += apart * apart
        for i in range(width):
            result[i] = np.float32(np.sqrt(squares[i] / count))


@compiled
def keep_where(deltas: Block, chosen: Block) -> None:
    """Zero the entries of every row that are zero in `chosen`."""
    for row in range(deltas.shape[0]):
        strip = deltas[row]
        for i in range(chosen.shape[0]):
            strip[i] = strip[i] if chosen[i] != np.float32(0.0) else np.float32(0.0)


def merge_majority(out: Block, deltas: Block, weights: Block, least: float) -> None:
    """Fill `out` with Σ wᵢ·τᵢ / Σ wᵢ over the entries that have the sign of the sum, plus where that is zero.

    Args:
        out: `(entries,)`.
        deltas: `(experts, entries)`.
        weights: `(experts,)`.
        least: what the sum of weights is at least; 0 divides by 1 where it is zero.
    """
    _merge_majority(out, deltas, weights, np.float32(least), np.empty(STRIP), np.empty(STRIP, np.float32))


@compiled
def _merge_majority(out: Block, deltas: Block, weights: Block, floor: np.float32, total: Numbers, share: Block) -> None:
    zero, one = np.float32(0.0), np.float32(1.0)
    for first in range(0, out.shape[0], STRIP):
        merged = out[first : first + STRIP]
        width = merged.shape[0]
        total[:width] = 0.0
        share[:width] = zero
        merged[:] = zero
        for row in range(deltas.shape[0]):
            strip = deltas[row, first : first + STRIP]
            for i in range(width):
                total[i] += np.float64(strip[i])
        for row in range(deltas.shape[0]):
            weight, strip = weights[row], deltas[row, first : first + STRIP]
            for i in range(width):
                agrees = strip[i] > zero if total[i] >= 0.0 else strip[i] < zero
                merged[i] += strip[i] * weight if agrees else zero
                share[i] += weight if agrees else zero
        for i in range(width):
            divisor = max(share[i], floor) if floor > zero else (share[i] if share[i] > zero else one)
            merged[i] = merged[i] / divisor


def mean_square_shares(squares: Numbers, size: int, thresholds: str) -> list[float]:
    """Return each task vector's share of the mean squares, from the sums of squares of a tensor of `size` entries."""
    means = [square / max(size, 1) for square in squares]
    total = sum(means[1:], means[0])
    enough = total >= 1e-6 if thresholds == "absolute" else total > 0
    return [mean / total if enough else 1 / len(means) for mean in means]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the first passes found: the cuts of the deviations, and each tensor's weights."""

    cuts: Thresholds | None
    squares: Mapping[str, Numbers]


def _select(deltas: Block, place: Place, cuts: Thresholds | None) -> None:
    """Zero the entries whose deviation lies below its cut."""
    if cuts is None:
        return
    spread = np.empty((1, deltas.shape[1]), np.float32)
    if place[0] in cuts.cuts:
        deviations(deltas, spread[0])
        trim_below(spread.view(np.uint32), *cuts.at(place))
    else:
        spread[:] = 0
    keep_where(deltas, spread[0])


def _prepare(scan: Scan, at: Mapping[str, Mapping[str, Any]], *, select_topk: Any, **others: Any) -> Prepared:
    shares = {name: own["select_topk"] for name, own in at.items()}
    cuts = None
    if min(shares.values(), default=1) < 1:

        def want(name: str, size: int) -> Any:
            share = shares[name]
            return np.array([math.floor(size * share)], np.int64)

        cuts = select(_spreads(scan), want, scope="tensor", count=np.count_nonzero)

    def visit(state: State, place: Place, inputs: Block) -> None:
        _select(inputs, place, cuts if shares[place[0]] < 1 else None)
        if "" not in state:
            state[""] = Sums(len(inputs), squares=True)
        state[""].add(place, inputs)

    return Prepared(cuts, totals(scan(visit)))


def _spreads(scan: Scan) -> Scan:
    """Return passes over deviations instead of deltas."""

    def spreads(visit: Visit, *, among: Container[str] | None = None) -> Iterator[State]:
        def of_deltas(state: State, place: Place, inputs: Block) -> None:
            spread = np.empty((1, inputs.shape[1]), np.float32)
            deviations(inputs, spread[0])
            visit(state, place, spread)

        return scan(of_deltas, among=among)

    return spreads


def _apply(
    out: Block, base: Block, inputs: Block, place: Place, prepared: Prepared, *,
    site: Any, select_topk: float, thresholds: str,
) -> None:  # fmt: skip
    """Fill `out` with θ₀ + the majority's mean of the selected entries."""
    _select(inputs, place, prepared.cuts if select_topk < 1 else None)
    weights = mean_square_shares(prepared.squares[place[0]], math.prod(site.shape), thresholds)
    merge_majority(out, inputs, np.array(weights, np.float32), 1e-6 if thresholds == "absolute" else 0.0)
    np.add(base, out, out=out)


def _ranks(parameters: dict[str, Any]) -> bool:
    return bool(parameters["select_topk"] != 1)


MAJORITY = Kernel(_apply, "deltas", prepare=_prepare, compiled=True, sited=True, whole=_ranks, state=lambda _: STATE)
