"""Preferences: points of the simplex, the worked numbers of exact Pareto optimal search, and an independent solver."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from independent_mixing import exact_pareto

from fusionbench.errors import ConfigError
from fusionbench.methods._pareto import exact_pareto_weights, on_simplex, simplex_grid

HALF = np.array([0.5, 0.5])


@pytest.mark.parametrize(
    ("ray", "losses", "gram", "expected"),
    [
        ([0.5, 0.5], [2, 1], [[1, 0], [0, 1]], [1, 0]),
        ([0.5, 0.5], [2, 1], [[1, -0.5], [-0.5, 1]], [0.859208, 0.140792]),
        ([0.5, 0.5], [1, 1], [[1, 0], [0, 4]], [0, 1]),
        ([0.8, 0.2], [1, 1], [[1, 0], [0, 1]], [1, 0]),
    ],
)
def test_the_worked_numbers(ray: list[float], losses: list[float], gram: list[list[float]], expected: list[float]):
    found = exact_pareto_weights(np.array(ray), np.array(losses, float), np.array(gram, float))
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_losses_in_proportion_are_lowered_together():
    """r∘L is equal for all, so the second programme decides: the longer gradient lowers more in all."""
    found = exact_pareto_weights(np.array([0.2, 0.8]), np.array([4.0, 1.0]), np.diag([1.0, 3.0]))
    np.testing.assert_allclose(found, [0, 1], atol=1e-9)


def test_a_preference_that_leaves_a_task_out_is_followed():
    found = exact_pareto_weights(np.array([1.0, 0.0]), np.array([1.0, 1.0]), np.eye(2))
    np.testing.assert_allclose(found, [1, 0], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(2, 4), seed=st.integers(0, 10**6), length=st.sampled_from([1e-9, 1.0, 1e6]))
def test_the_programme_is_solved_as_an_independent_search_of_its_corners_does(count: int, seed: int, length: float):
    generator = np.random.default_rng(seed)
    ray, losses = generator.dirichlet([1.0] * count), generator.exponential(size=count) + 0.01
    gradients = generator.normal(size=(count, 6))
    gram = gradients @ gradients.T
    found = exact_pareto_weights(ray, losses, length * gram)
    expected, value = exact_pareto(ray, losses, gram)
    assert found.min() >= 0
    assert math.isclose(found.sum(), 1, abs_tol=1e-9)
    if math.isnan(value):
        np.testing.assert_allclose(found, expected, atol=1e-9)
        return
    weighed = ray * losses
    shares = weighed / weighed.sum()
    away = (shares * np.log(count * shares)).sum()
    pull = gram @ (ray * (np.log(count * shares) - away))
    aim = pull if away > 1e-4 else gram.sum(axis=0)
    assert aim @ found == pytest.approx(value, rel=1e-5, abs=1e-5)


def test_a_programme_without_a_solution_gives_the_preference(monkeypatch: pytest.MonkeyPatch):
    from types import SimpleNamespace

    monkeypatch.setattr("scipy.optimize.linprog", lambda *_, **__: SimpleNamespace(success=False))
    found = exact_pareto_weights(np.array([0.3, 0.7]), np.array([2.0, 1.0]), np.eye(2))
    np.testing.assert_allclose(found, [0.3, 0.7], atol=1e-12)


def test_the_grid_by_hand():
    assert simplex_grid(3, 2) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert simplex_grid(2, 3) == [(0, 1), (0.5, 0.5), (1, 0)]
    assert simplex_grid(1, 5) == [(1,)]


@pytest.mark.parametrize(("count", "points"), [(2, 11), (3, 4), (4, 3), (8, 2)])
def test_the_grid_has_as_many_points_as_the_formula_says_all_on_the_simplex(count: int, points: int):
    found = simplex_grid(count, points)
    assert len(found) == len(set(found)) == math.comb(points + count - 2, count - 1)
    assert found == sorted(found)
    assert all(math.isclose(math.fsum(ray), 1) and min(ray) >= 0 for ray in found)


def test_a_grid_too_fine_to_evaluate_is_refused():
    with pytest.raises(ConfigError, match=r"method\.grid=11 makes 19448 preferences over 8 experts"):
        simplex_grid(8, 11)


def test_thirds_of_three_digits_are_on_the_simplex():
    assert math.fsum(on_simplex([0.333, 0.333, 0.334], ["a", "b", "c"])) == pytest.approx(1, abs=1e-12)
    assert on_simplex([1, 0], ["a", "b"]) == (1, 0)


@pytest.mark.parametrize(
    ("preference", "said"),
    [
        ([0.2, 0.9], r"sums to 1\.1"), ([-0.2, 1.2], r"smallest entry is -0\.2"), ([1.0], "expected 2 numbers.*a, b"),
        ([0.2, 0.3, 0.5], "expected 2 numbers"), ([0.2, "x"], "expected 2 numbers"),
        ([float("nan"), 1.0], "sums to nan"), ([True, False], "expected 2 numbers"),
    ],
)  # fmt: skip
def test_a_preference_off_the_simplex_is_refused(preference: list[float], said: str):
    with pytest.raises(ConfigError, match=said):
        on_simplex(preference, ["a", "b"])
