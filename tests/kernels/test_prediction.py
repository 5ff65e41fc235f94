"""A guess decides what is read, never what is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_selection import by_sorting, problems, scan_of, trimmed

from fusionbench.kernels import passes, prediction
from fusionbench.kernels.counting import count_window
from fusionbench.kernels.selection import thresholds


def selected(models, densities, scope="model", *, tile=8, share=2, order=None, keep="exact", span=1 << 18, least=1):
    """The thresholds found with a guess from one in `share` entries, and how many whole passes that took."""
    whole = []
    scan = scan_of(models, tile, order)

    def counted(visit, *, among=None, most=None):
        whole.append(most is None)
        return scan(visit, 1 if most is None else share, among)

    at = {name: {"density": densities} for name in models}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(passes, "BLOCK", tile)
        monkeypatch.setattr(prediction, "SPAN", span)
        monkeypatch.setattr(prediction, "LEAST", least)
        found = thresholds(counted, at, scope=scope, keep=keep, part=counted)
    return found, sum(whole)


@pytest.mark.parametrize("keep", ["exact", "official", "at_least_one"])
@pytest.mark.parametrize("scope", ["model", "changed"])
@settings(max_examples=50)
@given(
    problem=problems(), tile=st.sampled_from([3, 8, 100]), share=st.integers(1, 3), span=st.sampled_from([4, 1 << 18])
)
def test_what_is_kept_is_what_sorting_keeps_whatever_was_guessed(scope, keep, problem, tile, share, span):
    models, densities, order = problem
    found, _ = selected(models, tuple(densities), scope, tile=tile, share=share, order=order, keep=keep, span=span)
    left = models if found is None else trimmed(models, found, tile)
    expected = by_sorting(models, densities, scope, keep)
    assert {n: left[n].tolist() for n in models} == {n: expected[n].tolist() for n in models}


def drawn(steps: int) -> dict[str, np.ndarray]:
    """Normal numbers, rounded to so many steps a unit."""
    values = np.random.default_rng(5).standard_normal((2, 20_000))
    return {"b": (values[:, :9000] * steps).round() / steps, "a": (values[:, 9000:] * steps).round() / steps}


@pytest.mark.parametrize("steps", [8, 2**30])
def test_one_pass_is_enough_where_the_guess_is_good(steps):
    models = {name: values.astype(np.float32) for name, values in drawn(steps).items()}
    found, count = selected(models, (0.2, 0.37), tile=64, span=1 << 23)
    assert count == 1
    expected = by_sorting(models, (0.2, 0.37), "model", "exact")
    assert {n: v.tolist() for n, v in trimmed(models, found, 64).items()} == {
        n: v.tolist() for n, v in expected.items()
    }
    assert bool(found.before) == (steps == 8)


def test_a_guess_that_was_led_astray_costs_a_pass_and_nothing_else():
    """The heads of the tiles, which the sample sees, hold the small numbers."""
    values = np.tile(np.array([1, 1, 1, 1, 9, 8, 7, 6], np.float32), 50)[None]
    values[0] += np.arange(400, dtype=np.float32) * np.float32(2.0**-20)
    found, count = selected({"t": values}, (0.25,), span=64)
    assert count == 1 + 2
    assert trimmed({"t": values}, found)["t"].tolist() == np.where(values >= 8, values, 0).tolist()


def test_ties_are_counted_once_more_where_another_number_than_the_guess_is_the_cut():
    """Half of 401 to 800 reach 601; with those that the sample does not see, 401 of 800 reach 603."""
    head, rest = np.arange(401, 801, dtype=np.float32), np.arange(401, 801, dtype=np.float32)
    rest[:5] = 603
    values = np.stack([head.reshape(-1, 4), rest.reshape(-1, 4)], axis=1).reshape(1, -1)
    found, count = selected({"t": values}, (0.5,))
    assert found.cuts[""].bits.view(np.float32).tolist() == [603]
    assert found.cuts[""].quota.tolist() == [6]
    expected = by_sorting({"t": values}, (0.5,), "model", "exact")
    assert trimmed({"t": values}, found)["t"].tolist() == expected["t"].tolist()
    assert count == 2


def test_no_pass_is_lost_where_the_sample_says_nothing():
    models = {"t": np.arange(1, 8, dtype=np.float32)[None]}
    assert selected(models, (0.5,), share=8)[1] == 2
    assert selected({"t": np.tile(models["t"], 16)}, (0.5,), least=57)[1] == 3
    assert selected({"t": np.tile(models["t"], 16)}, (0.5,), least=56)[1] == 1
    still = {"t": np.zeros((1, 64), np.float32)}
    assert selected(still, (0.5,))[1] == 3


def test_a_window_counts_what_is_above_in_it_and_at_its_middle():
    values = np.zeros((2, 300), np.float32)
    bits = values.view(np.uint32)
    bits[0, [0, 100, 129, 299]] = [10, 11 | 0x80000000, 14, 15]
    bits[0, [3, 130]] = 12
    bits[1, [0, 1, 299]] = [5, 6, 4]
    above, window = np.zeros(2, np.int64), np.zeros((2, 5), np.int64)
    least, guess, most = (np.array(row, np.uint32) for row in ([10, 5], [12, 5], [14, 5]))
    for _ in range(2):
        assert count_window(bits, least, guess, most, above, window).tolist() == [2, 1]
    assert above.tolist() == [2, 2]
    assert window.tolist() == [[2, 2, 0, 0, 2], [0, 0, 0, 0, 0]]
