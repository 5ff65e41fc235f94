"""The inner loops of sums of products, compiled; `moments` says in which order they add."""

from typing import Any

import numpy as np

from fusionbench.kernels import Block
from fusionbench.kernels._compile import compiled

Numbers = np.ndarray[Any, np.dtype[np.float64]]


GROUP = 64
"""Lanes that are worked on at a time, so that every pair's sums stay in the first-level cache."""
LINES = 4
"""Lines of lanes that are added to a sum while it is in a register, one after the other."""


def add_products(rows: Block, offset: int, lanes: Numbers) -> None:
    """Add every pair's products to its lanes.

    Args:
        rows: `(vectors, entries)`.
        offset: which lane the first entry belongs to.
        lanes: `(pairs, LANES)`, in the order of `combinations_with_replacement`; LANES is a multiple of `GROUP`.
    """
    _add_products(rows, offset, lanes, np.empty((rows.shape[0], LINES, GROUP)))


@compiled
def _add_products(rows: Block, offset: int, lanes: Numbers, wide: Numbers) -> None:
    size, width = rows.shape[1], lanes.shape[1]
    head = min(-offset % width, size)
    whole = head + (size - head) // (LINES * width) * (LINES * width)
    _add_few(rows, 0, head, offset, lanes)
    for lane in range(0, width, GROUP):
        for place in range(head + lane, whole, LINES * width):
            for row in range(rows.shape[0]):
                for line in range(LINES):
                    first = place + line * width
                    strip, double = rows[row, first : first + GROUP], wide[row, line]
                    for i in range(GROUP):
                        double[i] = strip[i]
            _add_lines(wide, lane, lanes)
    for place in range(whole, size, width):
        _add_few(rows, place, min(place + width, size), 0, lanes)


@compiled
def _add_lines(wide: Numbers, lane: int, lanes: Numbers) -> None:
    """Add the products of `wide`, `(vectors, LINES, GROUP)`, line after line, to the group from `lane` on."""
    pair = 0
    for left in range(wide.shape[0]):
        a, b, c, d = wide[left, 0], wide[left, 1], wide[left, 2], wide[left, 3]
        for right in range(left, wide.shape[0]):
            e, f, g, h = wide[right, 0], wide[right, 1], wide[right, 2], wide[right, 3]
            total = lanes[pair, lane : lane + GROUP]
            for i in range(GROUP):
                total[i] = (((total[i] + a[i] * e[i]) + b[i] * f[i]) + c[i] * g[i]) + d[i] * h[i]
            pair += 1


@compiled
def _add_few(rows: Block, start: int, stop: int, offset: int, lanes: Numbers) -> None:
    """Add the products of at most one line of entries, the first of which belongs to lane `offset`."""
    pair = 0
    for left in range(rows.shape[0]):
        for right in range(left, rows.shape[0]):
            total, first, second = lanes[pair, offset:], rows[left, start:stop], rows[right, start:stop]
            for i in range(stop - start):
                total[i] += np.float64(first[i]) * np.float64(second[i])
            pair += 1


@compiled
def add_squares(rows: Block, offset: int, lanes: Numbers) -> None:
    """Add the squares of each row's entries to its lanes, `(vectors, LANES)`; see `add_products`."""
    for row in range(rows.shape[0]):
        place, lane = 0, offset
        while place < rows.shape[1]:
            step = min(lanes.shape[1] - lane, rows.shape[1] - place)
            total, strip = lanes[row, lane : lane + step], rows[row, place : place + step]
            for i in range(step):
                total[i] += np.float64(strip[i]) * np.float64(strip[i])
            place += step
            lane = 0
