"""The exact k-th largest magnitude of a stream that is never held: histograms of float32 bit patterns.

Magnitudes sort like their bit patterns. A first pass counts the upper 15 bits, a second the lower 16 of those that
share the cut's upper ones; where the cut is tied, a third counts the ties of each tile, so that exactly k entries are
kept, ties by (tensor name, flat index), whatever the order of the files.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from typing import Any, Literal

import numpy as np

from fusionbench.errors import ConfigError
from fusionbench.kernels import Block, Place, Scan, State, Visit
from fusionbench.kernels._compile import compiled
from fusionbench.kernels.tiles import TILE

Scope = Literal["model", "tensor", "changed"]
Keep = Literal["exact", "official", "at_least_one"]
Counts = np.ndarray[Any, np.dtype[np.int64]]
Bits = np.ndarray[Any, np.dtype[np.uint32]]
At = Mapping[str, Mapping[str, Any]]
HIGH, LOW = 1 << 15, 1 << 16
MAGNITUDE = 0x7FFFFFFF
"""Mask of a float32's bits without the sign; what is left sorts like the magnitude."""
WHOLE = ""
"""Name of the group that holds every tensor."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the magnitudes of one group are cut, for each expert.

    Attributes:
        bits: float32 pattern of the smallest magnitude that is kept; entries above it stay.
        quota: how many entries of exactly that magnitude stay.
    """

    bits: Bits
    quota: Counts


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What the selection found: a cut a group, and the ties that come before each tile."""

    cuts: Mapping[str, Cut]
    before: Mapping[Place, Counts]

    def at(self, place: Place) -> tuple[Bits, Counts]:
        """Return the cut's patterns, and how many ties may still be kept from `place` on."""
        cut = self.cuts.get(WHOLE) or self.cuts[place[0]]
        before = self.before.get(place)
        return cut.bits, cut.quota if before is None else np.maximum(cut.quota - before, 0)


def kept(density: float, size: int, keep: Keep) -> int:
    """Return how many of `size` entries a density keeps: ⌊density·size⌋, without the rounding of binary fractions."""
    exact = math.floor(Fraction(repr(float(density))) * size)
    if keep == "official":
        return min(size, exact + 1)
    return max(exact, min(1, size)) if keep == "at_least_one" else exact


def thresholds(scan: Scan, at: At, *, scope: Scope, keep: Keep = "exact") -> Thresholds | None:
    """Return the cuts that keep each expert's share of largest magnitudes; None where nothing is trimmed.

    Args:
        scan: passes over the deltas.
        at: each tensor's own parameters; of these, `density` is the share to keep, in (0, 1]: one number, or one an
            expert.
        scope: the group within which magnitudes compete: all tensors, each tensor, or all that some expert changed.
        keep: `exact` keeps ⌊density·size⌋; `official` one more and all its ties, as the authors' code; `at_least_one`
            never empties a group.

    Raises:
        ConfigError: where the density differs from tensor to tensor but the scope does not.
    """
    shares = {name: _shares(own["density"]) for name, own in at.items()}
    if scope != "tensor" and len(set(shares.values())) > 1:
        raise ConfigError("method.density differs from tensor to tensor: that needs method.scope=tensor.")
    if min(map(min, shares.values()), default=1) >= 1:
        return None
    whole = next(iter(shares.values()))
    official = keep == "official"
    groups, cuts = _first_pass(
        scan, scope, lambda name, size: _wanted(shares.get(name, whole), size, keep), official=official
    )
    prefixes = {name: _find(group.high, group.wanted) for name, group in groups.items()}
    found, ties = _second_pass(scan, prefixes, scope, official=official) if prefixes else ({}, {})
    open_groups = {name for name, cut in found.items() if bool((cut.quota < ties[name]).any())}
    before = _third_pass(scan, found, open_groups) if open_groups else {}
    return Thresholds({**cuts, **found}, before) if cuts or found else None


def _shares(density: Any) -> tuple[float, ...]:
    return tuple(density) if isinstance(density, Sequence) else (density,)


@dataclass(slots=True)
class _Group:
    high: Counts
    size: int = 0
    changed: bool = False
    wanted: Counts = field(default_factory=lambda: np.zeros(0, np.int64))

    def joined(self, other: "_Group") -> "_Group":
        return _Group(self.high + other.high, self.size + other.size, self.changed or other.changed)


def _first_pass(
    scan: Scan, scope: Scope, want: Callable[[str, int], Counts], *, official: bool
) -> tuple[dict[str, _Group], dict[str, Cut]]:
    """Return the histograms of each group, and the cuts of tensors that one tile holds whole."""

    def visit(state: State, place: Place, inputs: Block) -> None:
        name, size = place[0], inputs.shape[1]
        if scope == "tensor" and place[1] == 0 and size < TILE:
            state[name] = _cut_whole(inputs.view(np.uint32), want(name, size), official=official)
            return
        key = WHOLE if scope == "model" else name
        if key not in state:
            state[key] = _Group(np.zeros((len(inputs), HIGH), np.int64))
        group = state[key]
        count_high(inputs.view(np.uint32), group.high)
        group.size += size
        group.changed |= bool(inputs.any())

    tensors: dict[str, _Group] = {}
    cuts: dict[str, Cut] = {}
    for state in scan(visit):
        for name, found in state.items():
            if isinstance(found, Cut):
                cuts[name] = found
            else:
                tensors[name] = tensors[name].joined(found) if name in tensors else found
    groups = _changed(tensors) if scope == "changed" else tensors
    for name, group in groups.items():
        group.wanted = want(name, group.size)
    return groups, cuts


def _changed(tensors: Mapping[str, _Group]) -> dict[str, _Group]:
    """Return one group of all tensors that some expert changed."""
    held = [tensors[name] for name in sorted(tensors) if tensors[name].changed]
    return {WHOLE: reduce(_Group.joined, held)} if held else {}


def _wanted(shares: tuple[float, ...], size: int, keep: Keep) -> Counts:
    """Return how many entries each share keeps; a single share stands for all experts."""
    return np.array([kept(share, size, keep) for share in shares], np.int64)


def _cut_whole(bits: Bits, wanted: Counts, *, official: bool) -> Cut:
    """Return the cut of a tensor that is at hand as a whole, by a partial sort of its magnitudes."""
    rows, size = bits.shape
    each = np.broadcast_to(wanted, rows)
    cut, quota = np.full(rows, MAGNITUDE, np.uint32), np.zeros(rows, np.int64)
    for row, want in enumerate(each):
        if want:
            magnitudes = bits[row] & np.uint32(MAGNITUDE)
            cut[row] = np.partition(magnitudes, size - want)[size - want]
            above, ties = np.count_nonzero(magnitudes > cut[row]), np.count_nonzero(magnitudes == cut[row])
            quota[row] = ties if official else want - above
    return Cut(cut, quota)


@dataclass(frozen=True, slots=True)
class _Prefix:
    """The cut's upper bits, and how many entries are still wanted from those that share them."""

    high: Bits
    wanted: Counts


def _find(counts: Counts, wanted: Counts) -> _Prefix:
    """Return, for each expert, the bin that holds the wanted-th largest, and what is wanted of it."""
    bins = np.zeros(len(counts), np.uint32)
    rest = np.zeros(len(counts), np.int64)
    for row, (count, want) in enumerate(zip(counts, np.broadcast_to(wanted, len(counts)), strict=True)):
        from_above = np.cumsum(count[::-1])
        position = min(int(np.searchsorted(from_above, max(want, 1))), len(count) - 1)
        bins[row] = len(count) - 1 - position
        rest[row] = want - (from_above[position] - count[bins[row]])
    return _Prefix(bins, rest)


def _group(name: str, scope: Scope) -> str:
    return name if scope == "tensor" else WHOLE


def _second_pass(
    scan: Scan, prefixes: Mapping[str, _Prefix], scope: Scope, *, official: bool
) -> tuple[dict[str, Cut], dict[str, Counts]]:
    def visit(state: State, place: Place, inputs: Block) -> None:
        group = _group(place[0], scope)
        if group not in prefixes:
            return
        if group not in state:
            state[group] = np.zeros((len(inputs), LOW), np.int64)
        count_low(inputs.view(np.uint32), prefixes[group].high, state[group])

    totals: dict[str, Counts] = {}
    cuts: dict[str, Cut] = {}
    ties: dict[str, Counts] = {}
    for state in scan(visit):
        for group, counts in state.items():
            totals[group] = totals[group] + counts if group in totals else counts
    for group, counts in totals.items():
        prefix = prefixes[group]
        low = _find(counts, prefix.wanted)
        bits = (prefix.high.astype(np.uint32) << np.uint32(16)) | low.high
        ties[group] = np.take_along_axis(counts, low.high[:, None].astype(np.int64), 1)[:, 0]
        # A cut of no entries at all lies above every magnitude.
        nothing = prefix.wanted <= 0
        bits[nothing] = 0x7FFFFFFF
        quota = ties[group] if official else np.where(nothing, 0, low.wanted)
        cuts[group] = Cut(bits, quota)
        ties[group] = np.where(nothing, 0, ties[group])
    return cuts, ties


def _third_pass(scan: Scan, cuts: Mapping[str, Cut], groups: set[str]) -> dict[Place, Counts]:
    """Return, for each tile, how many ties of each expert come before it in its group's order."""

    def visit(state: State, place: Place, inputs: Block) -> None:
        group = WHOLE if WHOLE in groups else place[0]
        if group in groups:
            state[place] = count_equal(inputs.view(np.uint32), cuts[group].bits)

    found = {place: counts for state in scan(visit) for place, counts in state.items()}
    before: dict[Place, Counts] = {}
    totals: dict[str, Counts] = {}
    for place in sorted(found):
        group = WHOLE if WHOLE in groups else place[0]
        total = totals.get(group, np.zeros_like(found[place]))
        before[place] = total
        totals[group] = total + found[place]
    return before


@compiled
def count_high(bits: Bits, counts: Counts) -> None:
    """Add each row's histogram of the magnitudes' upper 15 bits to `counts` `(rows, 2^15)`."""
    for row in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            counts[row, (bits[row, i] & MAGNITUDE) >> 16] += 1


@compiled
def count_low(bits: Bits, high: Bits, counts: Counts) -> None:
    """Add each row's histogram of the lower 16 bits, of the magnitudes whose upper ones are `high[row]`."""
    for row in range(bits.shape[0]):
        wanted = high[row]
        for i in range(bits.shape[1]):
            magnitude = bits[row, i] & MAGNITUDE
            if magnitude >> 16 == wanted:
                counts[row, magnitude & 0xFFFF] += 1


@compiled
def count_equal(bits: Bits, targets: Bits) -> Counts:
    """Return how many magnitudes of each row equal `targets[row]`."""
    counts = np.zeros(bits.shape[0], np.int64)
    for row in range(bits.shape[0]):
        target = targets[row]
        found = np.int32(0)
        for i in range(bits.shape[1]):
            found += np.int32((bits[row, i] & MAGNITUDE) == target)
        counts[row] = found
    return counts


@compiled
def trim_below(bits: Bits, targets: Bits, quota: Counts) -> None:
    """Zero the entries of each row below its target, and of those equal to it all but the first `quota[row]`.

    `bits` `(rows, entries)` are the entries' float32 patterns; a zero pattern is the number zero.
    """
    ties = count_equal(bits, targets)
    for row in range(bits.shape[0]):
        # Keeping none or all of the ties is one comparison, which the compiler runs on whole vectors.
        least = targets[row] + np.uint32(quota[row] <= 0)
        for i in range(bits.shape[1]):
            value = bits[row, i]
            bits[row, i] = value if (value & MAGNITUDE) >= least else np.uint32(0)
        if 0 < quota[row] < ties[row]:
            left = quota[row]
            for i in range(bits.shape[1]):
                if (bits[row, i] & MAGNITUDE) == targets[row]:
                    if left > 0:
                        left -= 1
                    else:
                        bits[row, i] = np.uint32(0)


def tiles_of(read: Any) -> Scan:
    """Return torch's `read` as a scan over deltas, for methods whose first pass is this selection."""

    def scan(visit: Visit) -> Iterator[State]:
        for site, base, experts in read():
            deltas = np.stack([(expert - base).float().reshape(-1).cpu().numpy() for expert in experts])
            state: State = {}
            visit(state, (site.name, site.start), deltas)
            yield state

    return scan
