"""Means over seeds and their standard errors, worked out by hand."""

import pytest

from fusionbench.experiments.answer import Value, judge
from fusionbench.experiments.model import load_experiment
from fusionbench.experiments.seeds import over_seeds


def test_the_mean_and_its_standard_error_over_three_seeds():
    found = over_seeds([{"mnist": Value(value, 500, 2.0)} for value in (70.0, 72.0, 77.0)])
    # Mean 73; deviations −3, −1, 4; s² = 26/2 = 13; s/√3 = √(13/3)
    assert found["mnist"] == Value(73.0, 500, pytest.approx((13 / 3) ** 0.5), 3, 2.0)


def test_one_seed_keeps_the_standard_errors_over_examples():
    assert over_seeds([{"mnist": Value(70.0, 500, 2.0)}]) == {"mnist": Value(70.0, 500, 2.0, 1)}


def test_a_cell_that_one_seed_lacks_is_left_out():
    found = over_seeds([{"a": Value(1.0), "b": Value(2.0)}, {"a": Value(3.0)}])
    assert found == {"a": Value(2.0, None, 1.0, 2)}


def test_other_numbers_of_examples_are_not_told_as_one():
    assert over_seeds([{"a": Value(1.0, 10)}, {"a": Value(1.0, 20)}])["a"] == Value(1.0, None, 0.0, 2)


@pytest.mark.parametrize(("stderrs", "verdict"), [((0.0, 0.2), "agrees"), ((0.0, 0.1), "differs")])
def test_a_verdict_takes_the_standard_error_over_examples_however_many_seeds_there_are(stderrs, verdict):
    """A merge without data gives the same numbers for all seeds: that says nothing of the test split."""
    table = load_experiment("multi-task-clip-b32")
    row = next(row for row in table.rows if row.label == "simple_average")
    found = over_seeds([{"average": Value(67.0, 500, stderr)} for stderr in stderrs])
    assert found["average"].stderr == 0.0
    # Printed 66.5: 0.05 + 0.3 does not reach, two standard errors of 0.1 over examples do, two of 0.05 do not.
    assert judge(table, row, found, {"average": 66.5}) == {"average": verdict}
