"""Guess from a sample where magnitudes are cut, then find the exact cut and its ties in one pass over everything.

A pass that counts in a narrow window around the guess, and compares elsewhere, is several times cheaper than whole
histograms, and one is enough. Where the cut lies outside the window there is no result, and the passes of `selection`
run: the guess decides what is read, never what is kept.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fusionbench.kernels import Block, PartialScan, Place, Scan, State
from fusionbench.kernels.counting import MAGNITUDE, Bits, Counts, count_window
from fusionbench.kernels.passes import (
    WHOLE,
    Cut,
    Scope,
    Thresholds,
    Want,
    each,
    find,
    third_pass,
    ties_before,
)

SAMPLE = 1 << 21
"""Entries of each expert in the sample, at most about so many."""
LEAST = 1 << 14
"""Entries of the sample, below which it says too little and whole passes cost too little."""
MARGIN = 128
"""The window reaches to the cuts of 1/128 fewer and more entries than wanted, and four standard errors further."""
SPAN = 1 << 18
"""Patterns that a window holds at most: 2 MiB of counters an expert and thread."""


class Window(NamedTuple):
    """Patterns around the guessed cut, one each an expert: the smallest, the guess, the largest."""

    least: Bits
    guess: Bits
    most: Bits


@dataclass(frozen=True, slots=True)
class _Found:
    """What one pass found: counts above and in the window, entries in all, and each tile's equals of the guess."""

    above: Counts
    counts: Counts
    size: int
    ties: Mapping[Place, Counts]


class _Counters(threading.local):
    """One thread's counters; sums of whole numbers are the same whichever thread adds them."""

    def __init__(self, every: list["tuple[Counts, Counts]"], rows: int, span: int) -> None:
        self.above, self.window = np.zeros(rows, np.int64), np.zeros((rows, span), np.int64)
        every.append((self.above, self.window))


def predicted(
    scan: Scan, part: PartialScan, want: Want, scope: Scope, *, rows: int, official: bool
) -> Thresholds | None:
    """Return the cuts of one group of all tensors; None where the sample does not tell them well enough.

    Args:
        scan: passes over everything.
        part: passes over a share of it.
        want: `(name, size) -> (rows,)`: how many of the group's entries are kept.
        scope: `model`, or `changed` for the tensors that some expert changed.
        rows: number of experts.
        official: keep all ties of the smallest that is kept.
    """
    window = _guess(part, want, scope, rows)
    if window is None:
        return None
    found = _one_pass(scan, window, scope)
    wanted = each(want(WHOLE, found.size), rows)
    missed = (wanted > 0) & ((wanted <= found.above) | (wanted > found.above + found.counts.sum(1)))
    if missed.any():
        return None
    low = find(found.counts, wanted - found.above)
    ties = np.take_along_axis(found.counts, low.high[:, None].astype(np.int64), 1)[:, 0]
    nothing = wanted <= 0
    bits = np.where(nothing, np.uint32(MAGNITUDE), window.least + low.high)
    cut = Cut(bits, np.where(nothing, 0, ties if official else low.wanted))
    cuts = {WHOLE: cut}
    torn = ~nothing & (cut.quota < ties)
    if not torn.any():
        return Thresholds(cuts, {})
    if (torn & (bits != window.guess)).any():
        return Thresholds(cuts, third_pass(scan, cuts, {WHOLE}))
    return Thresholds(cuts, ties_before(found.ties, {WHOLE}))


def _guess(part: PartialScan, want: Want, scope: Scope, rows: int) -> Window | None:
    """Return the window in which the sample says that the cuts lie; None where it says nothing."""
    sample = _sample(part, scope)
    size = sum(tile.shape[1] for tile in sample)
    if size < LEAST:
        return None
    middle = each(want(WHOLE, size), rows)
    apart = middle // MARGIN + 4 * np.sqrt(middle).astype(np.int64)
    least, guess, most = np.empty((3, rows), np.uint32)
    for row in range(rows):
        counts = np.array([min(middle[row] + apart[row], size), middle[row], max(middle[row] - apart[row], 1)])
        if counts[1] == 0:
            return None
        magnitudes = np.concatenate([tile[row] for tile in sample])
        magnitudes.partition(size - counts)
        least[row], guess[row], most[row] = magnitudes[size - counts]
    if (guess == 0).any():
        return None
    half = SPAN // 2 - 1
    least = np.maximum(np.maximum(least, 1), guess - np.minimum(guess, half))
    return Window(least.astype(np.uint32), guess, np.minimum(most, guess + np.uint32(half)))


def _sample(part: PartialScan, scope: Scope) -> list[Bits]:
    """Return the magnitudes of some entries, `(rows, entries)` a tile; for `changed`, of tensors seen to change."""

    def visit(state: State, place: Place, inputs: Block) -> None:
        state[place] = inputs.view(np.uint32) & np.uint32(MAGNITUDE)

    tiles = {place: found for state in part(visit, most=SAMPLE) for place, found in state.items()}
    changed = {place[0] for place, found in tiles.items() if scope == "model" or found.any()}
    return [found for place, found in tiles.items() if place[0] in changed]


def _one_pass(scan: Scan, window: Window, scope: Scope) -> _Found:
    every: list[tuple[Counts, Counts]] = []
    counters = _Counters(every, len(window.guess), int((window.most - window.least).max()) + 1)

    def visit(state: State, place: Place, inputs: Block) -> None:
        same = count_window(inputs.view(np.uint32), *window, counters.above, counters.window)
        state[place] = (same, inputs.shape[1], scope == "changed" and bool(inputs.any()))

    tiles = {place: found for state in scan(visit) for place, found in state.items()}
    above, counts = every.pop()
    for other_above, other_counts in every:
        above += other_above
        counts += other_counts
    ties = {place: same for place, (same, _, _) in tiles.items()}
    counts[np.arange(len(counts)), window.guess - window.least] += sum(ties.values())
    changed = {place[0] for place, (_, _, moved) in tiles.items() if moved}
    size = sum(size for place, (_, size, _) in tiles.items() if scope == "model" or place[0] in changed)
    return _Found(above, counts, size, ties)
