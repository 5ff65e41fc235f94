"""SCE: select by variance, weigh by mean squares, erase the minority's signs."""

import independent
import numpy as np
import pytest
import torch
from arrays import NEAR, assert_golden, assert_law, call, golden, law_cases, models, worked

from fusionbench.methods.sce import sce


@pytest.mark.parametrize(("parameters", "base", "experts", "expected"), worked("sce", {"topk": "select_topk"}))
def test_worked_numbers_of_the_specification(parameters, base, experts, expected):
    torch.testing.assert_close(call(sce, base, experts, **parameters).numpy(), expected.astype("float32"), **NEAR)


def test_weights_are_shares_of_the_mean_squares():
    first, second = 1 / 10, 9 / 10
    assert call(sce, [0], [[1], [3]]).item() == pytest.approx(first * 1 + second * 3)


def test_only_entries_with_the_sign_of_the_sum_are_merged():
    result = call(sce, [0, 0], [[2, 1], [-1, 1]])
    assert result.tolist() == pytest.approx([2, 1])


def test_a_sum_of_zero_counts_as_plus():
    assert call(sce, [0, 0], [[2, 1], [-2, 1]]).tolist() == pytest.approx([2, 1])


def test_the_entries_with_the_largest_variance_are_selected_ties_by_index():
    experts = [[1, 5, 0, 2, 7], [-1, 5, 4, 0, 7]]  # variances 1, 0, 4, 1, 0: three are not zero
    assert np.flatnonzero(call(sce, [0] * 5, experts, select_topk=0.34)).tolist() == [2]
    assert np.flatnonzero(call(sce, [0] * 5, experts, select_topk=0.67)).tolist() == [0, 2]
    assert np.flatnonzero(call(sce, [0] * 5, experts, select_topk=0.99)).tolist() == [0, 2]
    assert np.flatnonzero(call(sce, [0] * 5, experts)).tolist() == [0, 1, 2, 3, 4]


def test_equal_entries_have_no_variance_however_many_experts():
    same = [[0.1, 0.3]] * 7
    assert call(sce, [0, 0], same, select_topk=0.9).tolist() == [0, 0]


def test_small_task_vectors_are_weighed_unless_thresholds_are_absolute():
    small = [[1e-4], [3e-4]]
    assert call(sce, [0], small).item() == pytest.approx(2.8e-4)
    assert call(sce, [0], small, thresholds="absolute").item() == pytest.approx(2e-4)


def test_an_entry_of_a_small_task_vector_alone_is_whole_unless_thresholds_are_absolute():
    experts = [[1000, 0], [0, 0.01]]  # weights 1 and 1e-10
    assert call(sce, [0, 0], experts).tolist() == pytest.approx([1000, 0.01])
    assert call(sce, [0, 0], experts, thresholds="absolute").tolist() == pytest.approx([1000, 1e-6])


@pytest.mark.parametrize("case", golden("mergekit", "sce"))
def test_mergekit_gives_the_same(case):
    assert_golden(sce, case, **case.parameters)


@pytest.mark.parametrize(("method", "law"), law_cases(sce))
def test_claimed_laws_hold(method, law):
    assert_law(method, law)
    assert_law(method, law, select_topk=0.5)


@pytest.mark.parametrize("shape", [(), (40,), (5, 6), (4, 3, 2, 2)])
@pytest.mark.parametrize("topk", [1.0, 0.6, 0.1])
def test_equals_the_independent_reference(shape, topk):
    base, experts = models(4, {"": shape})
    reference = independent.sce(base[""].numpy(), [expert[""].numpy() for expert in experts], topk=topk)
    result = call(sce, base[""], [expert[""] for expert in experts], select_topk=topk)
    torch.testing.assert_close(result, torch.tensor(reference).float().reshape(shape), **NEAR)
