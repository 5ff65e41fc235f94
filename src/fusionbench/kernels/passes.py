"""Passes over magnitudes that find where they are cut, in histograms of float32 bit patterns; see `selection`."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from fusionbench.kernels import Block, Place, Scan, State
from fusionbench.kernels.counting import MAGNITUDE, Bits, Counts, count_equal, count_high, count_low
from fusionbench.kernels.tiles import BLOCK, TILE

Scope = Literal["model", "tensor", "changed"]
Want = Callable[[str, int], Counts]
HIGH, LOW = 1 << 15, 1 << 16
STATE = LOW * 8
"""Bytes of the larger histogram of one expert."""
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


@dataclass(frozen=True, slots=True)
class Prefix:
    """The cut's upper bits, and how many entries are still wanted from those that share them."""

    high: Bits
    wanted: Counts


class _Whole(NamedTuple):
    """The cut of a tensor that one tile holds, and, where it tears ties, how many each part of the tile has."""

    cut: Cut
    ties: dict[Place, Counts]


@dataclass(slots=True)
class _Group:
    """Histograms of the upper bits, the entries of each tensor in them, and the tensors that some expert changed."""

    high: Counts
    sizes: Counter[str]
    changed: set[str]

    def __iadd__(self, other: "_Group") -> "_Group":
        self.high += other.high
        self.sizes.update(other.sizes)
        self.changed |= other.changed
        return self

    def leave_out_unchanged(self) -> None:
        """Take out the tensors that no expert changed: their magnitudes are zero, all in the lowest bin."""
        unchanged = [name for name in self.sizes if name not in self.changed]
        self.high[:, 0] -= sum(self.sizes.pop(name) for name in unchanged)


def _whole_groups(states: Iterator[State]) -> Iterator[tuple[str, Any]]:
    """Yield each group with the sum of its states as soon as it is complete: a tensor's tiles follow one another."""
    held: State = {}
    for state in states:
        for name, found in state.items():
            if name in held:
                held[name] += found
            else:
                yield from held.items()
                held = {name: found}
    yield from held.items()


def first_pass(
    scan: Scan, scope: Scope, want: Want, count: Callable[[Block], int], *, official: bool
) -> tuple[dict[str, Prefix], Thresholds]:
    """Return where each group's cut lies by its upper bits, and what is found of tensors that one tile holds whole.

    With the scope `tensor`, tiles hold blocks, or, within a small budget, tiles: a first one that is not full is all
    there is.
    """

    def visit(state: State, place: Place, inputs: Block) -> None:
        name, size = place[0], inputs.shape[1]
        if scope == "tensor" and place[1] == 0 and size < BLOCK and size != TILE:
            bits = inputs.view(np.uint32)
            cut, ties = _cut_whole(bits, want(name, count(inputs)), official=official)
            torn = size > TILE and bool((cut.quota < ties).any())
            state[name] = _Whole(cut, _equals(bits, cut.bits, place) if torn else {})
            return
        key = _group(name, scope)
        if key not in state:
            state[key] = _Group(np.zeros((len(inputs), HIGH), np.int64), Counter(), set())
        group = state[key]
        count_high(inputs.view(np.uint32), group.high)
        group.sizes[name] += count(inputs)
        if inputs.any():
            group.changed.add(name)

    prefixes: dict[str, Prefix] = {}
    cuts: dict[str, Cut] = {}
    ties: dict[Place, Counts] = {}
    for name, found in _whole_groups(scan(visit)):
        if isinstance(found, _Whole):
            cuts[name] = found.cut
            ties |= found.ties
            continue
        if scope == "changed":
            found.leave_out_unchanged()
        if size := found.sizes.total():
            prefixes[name] = find(found.high, want(name, size))
    return prefixes, Thresholds(cuts, ties_before(ties, cuts))


def each(wanted: Counts, rows: int) -> Counts:
    """Return one number a cut; a single one stands for all rows."""
    return np.repeat(wanted, rows) if len(wanted) == 1 else wanted


def _cut_whole(bits: Bits, wanted: Counts, *, official: bool) -> tuple[Cut, Counts]:
    """Return the cut of a tensor that is at hand as a whole, by a partial sort of its magnitudes, and its ties."""
    rows, size = bits.shape
    many = each(wanted, rows)
    cut, quota, ties = np.full(len(many), MAGNITUDE, np.uint32), *np.zeros((2, len(many)), np.int64)
    magnitudes = np.empty(size, np.uint32)
    for i, want in enumerate(many):
        if want:
            np.bitwise_and(bits[i % rows], np.uint32(MAGNITUDE), out=magnitudes)
            magnitudes.partition(size - want)
            cut[i] = magnitudes[size - want]
            quota[i] = want - np.count_nonzero(magnitudes[size - want :] > cut[i])
            ties[i] = np.count_nonzero(magnitudes == cut[i])
    return Cut(cut, ties if official else quota), ties


def _equals(bits: Bits, targets: Bits, place: Place) -> dict[Place, Counts]:
    """Return how many magnitudes of each tile equal the targets; a block is fused in several tiles."""
    name, start = place
    tiles = range(0, bits.shape[1], TILE)
    return {(name, start + first): count_equal(bits, targets, first, first + TILE) for first in tiles}


def find(counts: Counts, wanted: Counts) -> Prefix:
    """Return, for each cut, the bin that holds the wanted-th largest, and what is wanted of it."""
    many = each(wanted, len(counts))
    bins, rest = np.zeros(len(many), np.uint32), np.zeros(len(many), np.int64)
    for cut, want in enumerate(many):
        count = counts[cut % len(counts)]
        from_above = np.cumsum(count[::-1])
        position = min(int(np.searchsorted(from_above, max(want, 1))), len(count) - 1)
        bins[cut] = len(count) - 1 - position
        rest[cut] = want - (from_above[position] - count[bins[cut]])
    return Prefix(bins, rest)


def _group(name: str, scope: Scope) -> str:
    return name if scope == "tensor" else WHOLE


def second_pass(
    scan: Scan, prefixes: Mapping[str, Prefix], scope: Scope, *, official: bool
) -> tuple[dict[str, Cut], dict[str, Counts]]:
    """Return each group's cut by the lower bits of the magnitudes that share its upper ones, and its ties."""

    def visit(state: State, place: Place, inputs: Block) -> None:
        group = _group(place[0], scope)
        if group not in prefixes:
            return
        if group not in state:
            state[group] = np.zeros((len(prefixes[group].high), LOW), np.int64)
        count_low(inputs.view(np.uint32), prefixes[group].high, state[group])

    cuts: dict[str, Cut] = {}
    ties: dict[str, Counts] = {}
    for group, counts in _whole_groups(scan(visit, among=prefixes if scope == "tensor" else None)):
        prefix = prefixes[group]
        low = find(counts, prefix.wanted)
        bits = (prefix.high.astype(np.uint32) << np.uint32(16)) | low.high
        ties[group] = np.take_along_axis(counts, low.high[:, None].astype(np.int64), 1)[:, 0]
        # A cut of no entries at all lies above every magnitude.
        nothing = prefix.wanted <= 0
        bits[nothing] = 0x7FFFFFFF
        quota = ties[group] if official else np.where(nothing, 0, low.wanted)
        cuts[group] = Cut(bits, quota)
        ties[group] = np.where(nothing, 0, ties[group])
    return cuts, ties


def third_pass(scan: Scan, cuts: Mapping[str, Cut], groups: set[str]) -> dict[Place, Counts]:
    """Return, for each tile, how many ties of each expert come before it in its group's order."""

    def visit(state: State, place: Place, inputs: Block) -> None:
        group = WHOLE if WHOLE in groups else place[0]
        if group in groups:
            state.update(_equals(inputs.view(np.uint32), cuts[group].bits, place))

    states = scan(visit, among=None if WHOLE in groups else groups)
    return ties_before({place: counts for state in states for place, counts in state.items()}, groups)


def ties_before(found: Mapping[Place, Counts], groups: Collection[str]) -> dict[Place, Counts]:
    """Return, for each tile, the sums of what was `found` in the tiles before it in its group's order."""
    before: dict[Place, Counts] = {}
    totals: dict[str, Counts] = {}
    for place in sorted(found):
        group = WHOLE if WHOLE in groups else place[0]
        total = totals.get(group, np.zeros_like(found[place]))
        before[place] = total
        totals[group] = total + found[place]
    return before
