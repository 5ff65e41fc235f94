"""Inner products of whole tensors, in float64 and in one fixed order: what angles, norms and shares are made of.

The order, here and in `methods._sums`: blocks of 2²⁰ entries; in a block, lane l adds the entries l, l + 1024, …
one after the other; the lanes are halved until one number is left; blocks are added from the first on. Products of
float32 numbers are exact in float64, so fused operations change nothing.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from fusionbench.kernels import Block, Place, Scan, State
from fusionbench.kernels.compiled_moments import add_products, add_squares

SPAN = 1 << 20
"""Entries whose lanes are added before another sum begins: the engine's block."""
LANES = 1024
Numbers = np.ndarray[Any, np.dtype[np.float64]]


def state_of(vectors: int) -> int:
    """Return the bytes of the lanes of all inner products of so many vectors."""
    return vectors * (vectors + 1) // 2 * LANES * 8


class Sums:
    """The sums of the blocks that one thread visits, one block after the other.

    Attributes:
        done: sums of whole blocks by tensor and block, `(pairs,)`, or `(vectors,)` of squares.
    """

    def __init__(self, vectors: int, *, squares: bool = False) -> None:
        self.squares = squares
        self.done: dict[Place, Numbers] = {}
        self._place: Place | None = None
        self._lanes = np.zeros((vectors if squares else vectors * (vectors + 1) // 2, LANES))

    def add(self, place: Place, rows: Block) -> None:
        """Add a tile's products."""
        block = (place[0], place[1] // SPAN)
        if block != self._place:
            self.close()
            self._place = block
        offset = place[1] % SPAN % LANES
        add = add_squares if self.squares else add_products
        add(rows, offset, self._lanes)

    def close(self) -> None:
        """Finish the block at hand."""
        if self._place is None:
            return
        found = self._lanes.copy()
        while found.shape[1] > 1:
            half = found.shape[1] // 2
            found = found[:, :half] + found[:, half:]
        self.done[self._place] = found[:, 0] + self.done.get(self._place, 0.0)
        self._lanes[:] = 0.0
        self._place = None


def totals(states: Iterator[State]) -> dict[str, Numbers]:
    """Return the sums of every tensor, its blocks added in their order, from states whose key `""` holds `Sums`."""
    found: dict[str, Numbers] = {}
    for state in states:
        if "" in state:
            state[""].close()
            for (name, _), part in state[""].done.items():
                found[name] = found[name] + part if name in found else part
    return found


def products(scan: Scan) -> Mapping[str, Numbers]:
    """Return all inner products of the inputs' rows by tensor, `(vectors, vectors)`, in one pass."""

    def visit(state: State, place: Place, inputs: Block) -> None:
        if "" not in state:
            state[""] = Sums(len(inputs))
        state[""].add(place, inputs)

    return {name: _square(pairs) for name, pairs in totals(scan(visit)).items()}


def _square(pairs: Numbers) -> Numbers:
    """Return the symmetric matrix of its upper triangle's entries, row by row."""
    count = int((2 * len(pairs)) ** 0.5)
    square = np.empty((count, count))
    for (i, j), value in zip(combinations_with_replacement(range(count), 2), pairs, strict=True):
        square[i, j] = square[j, i] = value
    return square
