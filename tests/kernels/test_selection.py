"""Exactly the wanted share is kept, and exactly those entries that sorting would keep."""

import math
import tracemalloc
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from values import numbers

from fusionbench.errors import ConfigError
from fusionbench.kernels import passes
from fusionbench.kernels.counting import count_equal, trim_below
from fusionbench.kernels.selection import kept, thresholds


@given(st.integers(1, 1000), st.integers(0, 10**9))
@example(290, 100)
@example(570, 100)
@example(70, 100)
@example(1, 10**9)
@example(1000, 10**9)
def test_the_share_that_is_kept_is_the_decimal_that_was_written(thousandths, size):
    density = float(f"{thousandths / 1000:.3f}")
    assert kept(density, size, "exact") == math.floor(Decimal(thousandths) / 1000 * size)


def test_a_share_in_binary_fractions_would_lose_an_entry():
    assert math.floor(0.29 * 100) == 28
    assert kept(0.29, 100, "exact") == 29


@pytest.mark.parametrize(
    ("keep", "density", "size", "expected"),
    [
        ("exact", 0.2, 4, 0),
        ("at_least_one", 0.2, 4, 1),
        ("at_least_one", 0.2, 0, 0),
        ("at_least_one", 0.5, 4, 2),
        ("official", 0.2, 4, 1),
        ("official", 0.5, 4, 3),
        ("official", 1.0, 4, 4),
        ("official", 0.5, 0, 0),
        ("exact", 1.0, 7, 7),
    ],
)
def test_implementations_keep_different_counts(keep, density, size, expected):
    assert kept(density, size, keep) == expected


def scan_of(models: dict[str, np.ndarray], tile: int, order: list[str] | None = None, together: int = 3):
    """Passes over tensors `(experts, entries)` in tiles, some neighbouring ones a state, in the order of the files."""

    def scan(visit, share=1, among=None):
        places = [
            (name, start) for name in order or list(models) for start in range(0, max(models[name].shape[1], 1), tile)
        ]
        for first in range(0, len(places), together):
            state = {}
            for name, start in places[first : first + together]:
                block = models[name][:, start : start + tile]
                block = np.ascontiguousarray(block[:, : block.shape[1] // share])
                if block.shape[1]:
                    visit(state, (name, start), block)
            yield state

    return scan


def cuts(models, densities, scope, tile: int = 8, order=None, together: int = 3, keep="exact"):
    """The thresholds that tiles of this size find; `densities` are those of every expert, or by tensor."""
    by_tensor = densities if isinstance(densities, dict) else dict.fromkeys(models, densities)
    at = {name: {"density": by_tensor[name]} for name in models}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(passes, "BLOCK", tile)
        return thresholds(scan_of(models, tile, order, together), at, scope=scope, keep=keep)


def trimmed(models, found, tile: int = 8):
    """What the cuts leave of every tensor."""
    result = {}
    for name, deltas in models.items():
        out = deltas.copy()
        for start in range(0, deltas.shape[1], tile):
            block = np.ascontiguousarray(out[:, start : start + tile])
            targets, quota = found.at((name, start))
            trim_below(block.view(np.uint32), targets, quota)
            out[:, start : start + tile] = block
        result[name] = out
    return result


def by_sorting(models, densities, scope, keep):
    """Sort all magnitudes of a group; the largest stay, of equal ones those first in (name, index)."""
    names = sorted(models)
    experts = next(iter(models.values())).shape[0]
    if scope == "changed":
        names = [name for name in names if models[name].any()]
    groups = [[name] for name in names] if scope == "tensor" else [names]
    result = {name: np.zeros_like(deltas) for name, deltas in models.items()}
    for group in groups:
        for row in range(experts):
            entries = [(name, i) for name in group for i in range(models[name].shape[1])]
            ranked = sorted(entries, key=lambda place: -abs(models[place[0]][row, place[1]]))
            count = kept_by_hand(densities[row], len(entries), keep)
            chosen = ranked[:count]
            if keep == "official" and chosen:
                least = abs(models[chosen[-1][0]][row, chosen[-1][1]])
                chosen = [place for place in entries if abs(models[place[0]][row, place[1]]) >= least]
            for name, i in chosen:
                result[name][row, i] = models[name][row, i]
    return result


def kept_by_hand(density, size, keep):
    exact = math.floor(Decimal(str(density)) * size)
    if keep == "official":
        return min(exact + 1, size)
    return max(exact, min(size, 1)) if keep == "at_least_one" else exact


@st.composite
def problems(draw):
    experts = draw(st.integers(1, 3))
    sizes = draw(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 25), min_size=1, max_size=4))
    still = draw(st.sets(st.sampled_from(sorted(sizes))))
    models = {
        name: np.array(
            [[0.0 if name in still else draw(numbers) for _ in range(size)] for _ in range(experts)], np.float32
        ).reshape(experts, size)
        for name, size in sizes.items()
    }
    densities = [draw(st.sampled_from([0.05, 0.1, 0.29, 0.3, 0.5, 0.75, 0.9, 1.0])) for _ in range(experts)]
    order = draw(st.permutations(list(sizes)))
    return models, densities, order


@pytest.mark.parametrize("keep", ["exact", "official", "at_least_one"])
@pytest.mark.parametrize("scope", ["model", "tensor", "changed"])
@settings(max_examples=60)
@given(problem=problems(), tile=st.sampled_from([3, 8, 100]), together=st.integers(1, 4))
def test_what_is_kept_is_what_sorting_keeps(scope, keep, problem, tile, together):
    models, densities, order = problem
    found = cuts(models, tuple(densities), scope, tile, order, together, keep)
    left = models if found is None else trimmed(models, found, tile)
    expected = by_sorting(models, densities, scope, keep)
    assert {n: left[n].tolist() for n in models} == {n: expected[n].tolist() for n in models}


def test_exactly_the_share_is_kept_where_every_magnitude_is_the_same():
    models = {name: np.full((2, 50), -1.0, np.float32) for name in "cab"}
    left = trimmed(models, cuts(models, (0.29, 0.5), "model", order=["b", "c", "a"]))
    assert sum(np.count_nonzero(left[name][0]) for name in models) == 43
    assert sum(np.count_nonzero(left[name][1]) for name in models) == 75
    assert [np.count_nonzero(left[name][0]) for name in "abc"] == [43, 0, 0]
    assert [np.count_nonzero(left[name][1]) for name in "abc"] == [50, 25, 0]
    assert left["a"][0, :43].all()
    assert left["b"][1, :25].all()


def test_the_cut_lies_between_neighbouring_floats():
    """Magnitudes that share their upper 16 bits are told apart by the lower ones."""
    values = np.arange(0x3F800000, 0x3F800000 + 1000, dtype=np.uint32).view(np.float32)
    models = {"t": np.random.default_rng(0).permutation(values)[None]}
    assert sorted(trimmed(models, cuts(models, 0.1, "model"))["t"][0].tolist())[-101:] == [0.0, *values[-100:].tolist()]


def test_only_changed_tensors_count_in_the_scope_changed():
    models = {"lora": np.array([[4.0, 3.0, 2.0, 1.0]], np.float32), "still": np.zeros((1, 16), np.float32)}
    kept_of = {
        scope: np.count_nonzero(trimmed(models, cuts(models, 0.5, scope))["lora"])
        for scope in ("model", "changed", "tensor")
    }
    assert kept_of == {"model": 4, "changed": 2, "tensor": 2}


def test_a_tensor_counts_as_changed_where_one_expert_changed_it():
    models = {"t": np.array([[0.0, 0.0], [1.0, 0.0]], np.float32), "u": np.array([[1.0, 2.0], [0, 0]], np.float32)}
    left = trimmed(models, cuts(models, 0.5, "changed"))
    assert left["t"].tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert left["u"].tolist() == [[1.0, 2.0], [0.0, 0.0]]


def test_nothing_is_scanned_where_everything_is_kept():
    def scan(visit, among=None):
        raise AssertionError("a pass too many")

    assert thresholds(scan, {"t": {"density": (1.0, 1.0)}}, scope="model") is None
    assert thresholds(scan, {}, scope="model") is None


def test_a_density_that_differs_from_tensor_to_tensor_needs_the_scope_tensor():
    models = {name: np.array([[3.0, 1.0, 2.0, 4.0]], np.float32) for name in "ab"}
    for scope in ("model", "changed"):
        with pytest.raises(ConfigError, match=r"method\.scope=tensor"):
            cuts(models, {"a": 0.25, "b": 0.75}, scope)
    left = trimmed(models, cuts(models, {"a": 0.25, "b": 0.75}, "tensor"))
    assert left["a"].tolist() == [[0.0, 0.0, 0.0, 4.0]]
    assert left["b"].tolist() == [[3.0, 0.0, 2.0, 4.0]]


@pytest.mark.parametrize("ties", [0, 1])
def test_a_pass_is_spent_on_ties_only_where_there_are_some(ties):
    passes = []
    models = {"t": np.arange(1, 21, dtype=np.float32)[None]}
    if ties:
        models["t"][0, 9] = 11.0
    scan = scan_of(models, 8)

    def counted(visit, among=None):
        passes.append(1)
        return scan(visit, among=among)

    thresholds(counted, {"t": {"density": 0.5}}, scope="model")
    assert len(passes) == 2 + ties


def test_ties_are_counted_by_magnitude():
    bits = np.array([[1.0, -1.0, 0.5, 0.0, -0.0], [0.0, -0.0, 2.0, 1.0, 1.0]], np.float32).view(np.uint32)
    one = int(np.float32(1.0).view(np.uint32))
    assert count_equal(bits, np.array([one, 0], np.uint32)).tolist() == [2, 2]


@pytest.mark.parametrize("quota", [0, 1, 1023, 1024, 1025, 1500, 3000, 9999])
def test_ties_are_kept_from_the_first_on_across_strips(quota):
    """Of 1, 2 and 3 in turn, the threes and the first twos stay."""
    values = np.tile(np.array([1.0, -2.0, 3.0], np.float32), 1000)[None]
    tied = np.flatnonzero(values[0] == -2.0)
    expected = np.where(values == 3.0, values, np.float32(0.0))
    expected[0, tied[:quota]] = -2.0
    trim_below(values.view(np.uint32), np.array([np.float32(2.0)]).view(np.uint32), np.array([quota]))
    assert values.tolist() == expected.tolist()


@pytest.mark.parametrize("scope", ["model", "tensor", "changed"])
def test_memory_does_not_grow_with_the_number_of_tensors(scope):
    """A histogram takes a quarter of a megabyte an expert: one for each of 300 tensors would be 300 times as much."""
    random = np.random.default_rng(0)
    models = {f"t{i:03}": random.integers(-9, 9, (4, 20)).astype(np.float32) for i in range(300)}
    tracemalloc.start()
    found = cuts(models, 0.3, scope)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert peak < 40e6
