"""How sparsified task vectors become one."""

import pytest
from arrays import tensor

from fusionbench.errors import ConfigError
from fusionbench.methods._combine import combine_deltas, elect, merge_agreeing, weighted_sum

DELTAS = [tensor([1.0, -2.0, 0.0, 1.0]), tensor([3.0, 1.0, -1.0, -1.0])]


def combined(factors, combine, normalize=False, zero_sign="zero"):
    return combine_deltas(DELTAS, factors, combine=combine, normalize=normalize, zero_sign=zero_sign).tolist()


def test_linear_is_the_weighted_sum_and_normalised_its_mean():
    assert combined([1, 2], "linear") == [7, 0, -2, -1]
    assert combined([1, 3], "linear", normalize=True) == [2.5, 0.25, -0.75, -0.5]


def test_ties_adds_what_has_the_sign_of_the_weighted_sum():
    assert combined([1, 1], "ties") == [4, -2, -1, 0]
    assert combined([1, 3], "ties") == [10, 3, -3, -3]


def test_ties_normalised_divides_each_entry_by_the_weights_that_agree():
    assert combined([1, 3], "ties", normalize=True) == [2.5, 1, -1, -1]


def test_a_sum_of_zero_elects_nothing_or_plus():
    assert combined([1, 1], "ties")[3] == 0
    assert combined([1, 1], "ties", zero_sign="positive")[3] == 1


def test_an_expert_of_negative_weight_votes_against_itself():
    assert combined([2, -1], "ties") == [-3, -5, 1, 3]


def test_the_election_counts_deltas_with_or_without_their_weights():
    assert elect(DELTAS, [1, 3], "weighted").tolist() == [10, 1, -3, -2]
    assert elect(DELTAS, [1, 3], "unweighted").tolist() == [4, -1, -1, 0]


def test_max_keeps_the_largest_that_agrees():
    sign = tensor([1, 1, -1, 1])
    assert merge_agreeing(DELTAS, [1, 1], sign, "max", "weighted").tolist() == [3, 1, -1, 1]


def test_weights_that_cancel_cannot_be_normalised():
    with pytest.raises(ConfigError, match=r"method\.weights sum to 0: .* Add normalize=false"):
        weighted_sum(DELTAS, [1, -1], normalize=True)
    assert weighted_sum(DELTAS, [1, -1], normalize=False).tolist() == [-2, -3, 1, 2]
