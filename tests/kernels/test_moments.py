"""Inner products: the same bits whatever the tiles, in NumPy and compiled, and those of the torch function."""

import math

import numpy as np
import pytest
import torch

from fusionbench.kernels import moments
from fusionbench.kernels.moments import Sums, products, totals
from fusionbench.methods._sums import gram


def drawn(rows: int, size: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((rows, size)).astype(np.float32)


def scan_of(tensors: dict[str, np.ndarray], tile: int, together: int = 3):
    """Passes over tensors `(vectors, entries)` in tiles, some neighbouring ones a state."""

    def scan(visit):
        places = [(name, start) for name, rows in tensors.items() for start in range(0, rows.shape[1], tile)]
        for first in range(0, len(places), together):
            state = {}
            for name, start in places[first : first + together]:
                visit(state, (name, start), np.ascontiguousarray(tensors[name][:, start : start + tile]))
            yield state

    return scan


def test_products_by_hand() -> None:
    rows = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    assert products(scan_of({"t": rows}, 8))["t"].tolist() == [[14, 32], [32, 77]]
    three = np.concatenate([rows, np.array([[0, 0, -1]], np.float32)])
    assert products(scan_of({"t": three}, 8))["t"].tolist() == [[14, 32, -3], [32, 77, -6], [-3, -6, 1]]


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 5, 1023, 1024, 1025, 5000, 11000])
def test_products_are_those_of_torch_whatever_the_tiles(rows, size) -> None:
    values = drawn(rows, size)
    expected = gram([torch.from_numpy(row)[None] for row in values])[0].numpy()
    for tile in (size, 1024, 700, 2049, 9000):
        found = products(scan_of({"t": values}, tile, together=10**6))["t"]
        assert found.tobytes() == expected.tobytes(), tile
    exact = [[math.fsum(a.astype(np.float64) * b.astype(np.float64)) for b in values] for a in values]
    np.testing.assert_allclose(expected, exact, rtol=0, atol=1e-12 * size)


def test_blocks_are_added_from_the_first_on(monkeypatch) -> None:
    """Sums of blocks 1, 2^53 and 1 are 2^53 from the left, one more in any other order."""
    monkeypatch.setattr(moments, "SPAN", 2)
    rows = np.array([[1.0, 0.0, 2.0**26.5, 2.0**26.5, 1.0, 0.0]])
    rows[0, 2:4] = [2.0**26, 2.0**26]
    found = products(scan_of({"t": rows.astype(np.float32)}, 2, together=1))["t"]
    assert found[0, 0] == (1 + 2.0**53) + 1


def test_tensors_keep_their_sums_apart() -> None:
    tensors = {name: drawn(3, size) for name, size in (("a", 10), ("b", 3000), ("c", 1))}
    found = products(scan_of(tensors, 1024, together=2))
    for name, rows in tensors.items():
        np.testing.assert_allclose(found[name], rows.astype(np.float64) @ rows.T.astype(np.float64), rtol=1e-12)


@pytest.mark.parametrize("tile", [3000, 1000, 77])
def test_squares_are_the_diagonal_of_the_products(tile) -> None:
    values = drawn(3, 3000)

    def visit(state, place, inputs) -> None:
        if "" not in state:
            state[""] = Sums(len(inputs), squares=True)
        state[""].add(place, inputs)

    found = totals(scan_of({"t": values}, tile, together=99)(visit))["t"]
    assert found.tolist() == np.diag(products(scan_of({"t": values}, 3000))["t"]).tolist()
