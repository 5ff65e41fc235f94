"""The exact k-th largest magnitude of a stream that is never held: histograms of float32 bit patterns.

Magnitudes sort like their bit patterns. A first pass counts the upper 15 bits, a second the lower 16 of those that
share the cut's upper ones; where the cut is tied, a third counts the ties of each tile, so that exactly k entries are
kept, ties by (tensor name, flat index), whatever the order of the files. Where a sample guesses the cut well, one pass
does for all three (`prediction`).
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from fusionbench.errors import ConfigError
from fusionbench.kernels import Block, PartialScan, Scan, State, Visit
from fusionbench.kernels.counting import Counts
from fusionbench.kernels.passes import Cut, Scope, Thresholds, Want, first_pass, second_pass, third_pass
from fusionbench.kernels.prediction import predicted

__all__ = ["At", "Cut", "Keep", "Scope", "Thresholds", "kept", "select", "thresholds", "tiles_of"]
Keep = Literal["exact", "official", "at_least_one"]
At = Mapping[str, Mapping[str, Any]]


def kept(density: float, size: int, keep: Keep) -> int:
    """Return how many of `size` entries a density keeps: ⌊density·size⌋, without the rounding of binary fractions."""
    exact = math.floor(Fraction(repr(float(density))) * size)
    if keep == "official":
        return min(size, exact + 1)
    return max(exact, min(1, size)) if keep == "at_least_one" else exact


def thresholds(
    scan: Scan, at: At, *, scope: Scope, keep: Keep = "exact", part: PartialScan | None = None
) -> Thresholds | None:
    """Return the cuts that keep each expert's share of largest magnitudes; None where nothing is trimmed.

    Args:
        scan: passes over the deltas.
        at: each tensor's own parameters; of these, `density` is the share to keep, in (0, 1]: one number, or one an
            expert.
        scope: the group within which magnitudes compete: all tensors, each tensor, or all that some expert changed.
        keep: `exact` keeps ⌊density·size⌋; `official` one more and all its ties, as the authors' code; `at_least_one`
            never empties a group.
        part: passes over a share of each tile, where that costs no whole pass: the cuts are guessed from it first.

    Raises:
        ConfigError: where the density differs from tensor to tensor but the scope does not.
    """
    shares = {name: _shares(own["density"]) for name, own in at.items()}
    if scope != "tensor" and len(set(shares.values())) > 1:
        raise ConfigError("method.density differs from tensor to tensor: that needs method.scope=tensor.")
    if min(map(min, shares.values()), default=1) >= 1:
        return None
    whole = next(iter(shares.values()))

    def want(name: str, size: int) -> Counts:
        return np.array([kept(share, size, keep) for share in shares.get(name, whole)], np.int64)

    if part is not None and scope != "tensor":
        found = predicted(scan, part, want, scope, rows=len(whole), official=keep == "official")
        if found is not None:
            return found
    return select(scan, want, scope=scope, official=keep == "official")


def select(
    scan: Scan,
    want: Want,
    *,
    scope: Scope,
    official: bool = False,
    count: Callable[[Block], int] = lambda inputs: inputs.shape[1],
) -> Thresholds | None:
    """Return the cuts that keep as many of the largest magnitudes as are wanted; None where there are no entries.

    Args:
        scan: passes over rows.
        want: `(name, size) -> (cuts,)`: how many of a group's entries are kept, `size` being what `count` found; one
            for all rows, or any number of cuts for each, cut c being one of row c modulo the number of rows.
        scope: the group within which magnitudes compete.
        official: keep all ties of the smallest that is kept.
        count: how many entries of a tile count.
    """
    prefixes, whole = first_pass(scan, scope, want, count, official=official)
    found, ties = second_pass(scan, prefixes, scope, official=official) if prefixes else ({}, {})
    open_groups = {name for name, cut in found.items() if bool((cut.quota < ties[name]).any())}
    before = third_pass(scan, found, open_groups) if open_groups else {}
    cuts = {**whole.cuts, **found}
    return Thresholds(cuts, {**whole.before, **before}) if cuts else None


def _shares(density: Any) -> tuple[float, ...]:
    return tuple(density) if isinstance(density, Sequence) else (density,)


def tiles_of(read: Any) -> Scan:
    """Return torch's `read` as a scan over deltas, for methods whose first pass is this selection."""

    def scan(visit: Visit, *, among: Container[str] | None = None) -> Iterator[State]:
        for site, base, experts in read():
            deltas = np.stack([(expert - base).float().reshape(-1).cpu().numpy() for expert in experts])
            state: State = {}
            visit(state, (site.name, site.start), deltas)
            yield state

    return scan
