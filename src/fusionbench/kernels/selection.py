"""The exact k-th largest magnitude of a stream that is never held: histograms of float32 bit patterns.

Magnitudes sort like their bit patterns. A first pass counts the upper 15 bits, a second the lower 16 of those that
share the cut's upper ones; where the cut is tied, a third counts the ties of each tile, so that exactly k entries are
kept, ties by (tensor name, flat index), whatever the order of the files.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from fusionbench.errors import ConfigError
from fusionbench.kernels import Block, Place, Scan, State, Visit
from fusionbench.kernels.counting import MAGNITUDE, Bits, Counts, count_equal, count_high, count_low
from fusionbench.kernels.tiles import TILE

Scope = Literal["model", "tensor", "changed"]
Keep = Literal["exact", "official", "at_least_one"]
At = Mapping[str, Mapping[str, Any]]
HIGH, LOW = 1 << 15, 1 << 16
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
    prefixes, cuts = _first_pass(
        scan, scope, lambda name, size: _wanted(shares.get(name, whole), size, keep), official=official
    )
    found, ties = _second_pass(scan, prefixes, scope, official=official) if prefixes else ({}, {})
    open_groups = {name for name, cut in found.items() if bool((cut.quota < ties[name]).any())}
    before = _third_pass(scan, found, open_groups) if open_groups else {}
    return Thresholds({**cuts, **found}, before) if cuts or found else None


def _shares(density: Any) -> tuple[float, ...]:
    return tuple(density) if isinstance(density, Sequence) else (density,)


@dataclass(frozen=True, slots=True)
class _Prefix:
    """The cut's upper bits, and how many entries are still wanted from those that share them."""

    high: Bits
    wanted: Counts


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


def _first_pass(
    scan: Scan, scope: Scope, want: Callable[[str, int], Counts], *, official: bool
) -> tuple[dict[str, _Prefix], dict[str, Cut]]:
    """Return where each group's cut lies by its upper bits, and the cuts of tensors that one tile holds whole."""

    def visit(state: State, place: Place, inputs: Block) -> None:
        name, size = place[0], inputs.shape[1]
        if scope == "tensor" and place[1] == 0 and size < TILE:
            state[name] = _cut_whole(inputs.view(np.uint32), want(name, size), official=official)
            return
        key = _group(name, scope)
        if key not in state:
            state[key] = _Group(np.zeros((len(inputs), HIGH), np.int64), Counter(), set())
        group = state[key]
        count_high(inputs.view(np.uint32), group.high)
        group.sizes[name] += size
        if inputs.any():
            group.changed.add(name)

    prefixes: dict[str, _Prefix] = {}
    cuts: dict[str, Cut] = {}
    for name, found in _whole_groups(scan(visit)):
        if isinstance(found, Cut):
            cuts[name] = found
            continue
        if scope == "changed":
            found.leave_out_unchanged()
        if size := found.sizes.total():
            prefixes[name] = _find(found.high, want(name, size))
    return prefixes, cuts


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

    cuts: dict[str, Cut] = {}
    ties: dict[str, Counts] = {}
    for group, counts in _whole_groups(scan(visit)):
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


def tiles_of(read: Any) -> Scan:
    """Return torch's `read` as a scan over deltas, for methods whose first pass is this selection."""

    def scan(visit: Visit) -> Iterator[State]:
        for site, base, experts in read():
            deltas = np.stack([(expert - base).float().reshape(-1).cpu().numpy() for expert in experts])
            state: State = {}
            visit(state, (site.name, site.start), deltas)
            yield state

    return scan
