"""Arcee Fusion takes over what stands out by distance and by change of distribution."""

import independent
import numpy as np
import pytest
import torch
from arrays import NEAR, assert_golden, assert_law, call, golden, law_cases, models, worked

from fusionbench.errors import ConfigError
from fusionbench.methods.arcee_fusion import arcee_fusion


@pytest.mark.parametrize(("parameters", "base", "experts", "expected"), worked("arcee_fusion"))
def test_worked_numbers_of_the_specification(parameters, base, experts, expected):
    result = call(arcee_fusion, base, experts, **parameters)
    torch.testing.assert_close(result.numpy(), expected.astype("float32"), **NEAR)


def test_only_the_outlier_of_five_entries_is_taken():
    assert call(arcee_fusion, np.zeros(5), [[0.1, 0.2, 0.3, 0.4, 3]]).tolist() == [0, 0, 0, 0, 3]


def test_entries_are_the_experts_or_the_bases_bit_for_bit():
    base, (expert,) = models(1, {"": (20, 30)})
    result = call(arcee_fusion, base[""], [expert[""]])
    taken = result == expert[""]
    assert 0 < taken.sum() < 300
    assert torch.equal(result[~taken], base[""][~taken])


def test_where_most_of_a_tensor_is_unchanged_every_change_stands_out():
    base = np.zeros((4, 4))
    expert = base.copy()
    expert[0] = [0, 0.1, 0.2, 0.3]
    assert np.allclose(call(arcee_fusion, base, [expert]).numpy(), expert)


def test_at_a_threshold_of_zero_entries_without_divergence_are_left_or_taken():
    column, expert = [[1.0], [2.0]], [[3.0], [5.0]]  # rows of one entry: the softmax cannot change
    assert call(arcee_fusion, column, [expert]).tolist() == column
    assert call(arcee_fusion, column, [expert], at_zero="all").tolist() == expert


def test_changes_below_float32s_rounding_of_the_divergence_are_told_apart():
    base, (expert,) = models(1, {"": (30, 17)})
    near = base[""] + 1e-4 * (expert[""] - base[""])
    reference = independent.arcee_fusion(base[""].double().numpy(), [near.double().numpy()])
    assert call(arcee_fusion, base[""], [near]).double().numpy().tolist() == reference.tolist()


@pytest.mark.parametrize("case", golden("mergekit", "arcee_fusion"))
def test_mergekit_gives_the_same(case):
    assert_golden(arcee_fusion, case)


def test_more_than_one_expert_is_refused_with_the_fix():
    with pytest.raises(ConfigError, match=r"exactly one expert, got 2\. Merge them one by one"):
        call(arcee_fusion, [0.0], [[1.0], [2.0]])


@pytest.mark.parametrize(("method", "law"), law_cases(arcee_fusion))
def test_claimed_laws_hold(method, law):
    assert_law(method, law, experts=1)


@pytest.mark.parametrize("shape", [(), (9,), (30, 17), (4, 3, 2, 5)])
def test_equals_the_independent_reference(shape):
    base, (expert,) = models(1, {"": shape}, seed=2)
    reference = independent.arcee_fusion(base[""].double().numpy(), [expert[""].double().numpy()])
    result = call(arcee_fusion, base[""], [expert[""]])
    torch.testing.assert_close(result, torch.tensor(reference).float(), **NEAR)
