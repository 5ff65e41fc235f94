"""NearSwap takes over what is near and moves the rest by the threshold."""

import independent
import pytest
import torch
from arrays import NEAR, assert_golden, assert_law, call, golden, law_cases, models, worked

from fusionbench.errors import ConfigError
from fusionbench.methods.nearswap import nearswap


@pytest.mark.parametrize(("parameters", "base", "experts", "expected"), worked("nearswap"))
def test_worked_numbers_of_the_specification(parameters, base, experts, expected):
    torch.testing.assert_close(call(nearswap, base, experts, **parameters).numpy(), expected.astype("float32"), **NEAR)


def test_near_entries_are_the_experts_and_far_ones_move_by_t():
    result = call(nearswap, [0, 0, 0, 2, 1], [[1, 0.25, 0.5, 2, -1]], t=0.5)
    assert result.tolist() == [0.5, 0.25, 0.5, 2.0, 0.5]


def test_near_entries_are_the_experts_bit_for_bit():
    base, (expert,) = models(1, {"": (1000,)})
    result = call(nearswap, 1000 * base[""], [expert[""]], t=1e6)
    assert torch.equal(result, expert[""])


def test_t_0_gives_the_base_bit_for_bit():
    base, (expert,) = models(1, {"": (1000,)})
    assert torch.equal(call(nearswap, base[""], [expert[""]], t=0.0), base[""])


@pytest.mark.parametrize("case", golden("mergekit", "nearswap"))
def test_mergekit_gives_the_same(case):
    assert_golden(nearswap, case, **case.parameters)


def test_more_than_one_expert_is_refused_with_the_fix():
    with pytest.raises(ConfigError, match=r"exactly one expert, got 2\. Merge them one by one"):
        call(nearswap, [0.0], [[1.0], [2.0]])


@pytest.mark.parametrize(("method", "law"), law_cases(nearswap))
def test_claimed_laws_hold(method, law):
    assert_law(method, law, experts=1, t=0.05)


def test_equals_the_independent_reference():
    base, (expert,) = models(1, {"": (50,)})
    reference = independent.nearswap(base[""].numpy(), [expert[""].numpy()], t=0.03)
    torch.testing.assert_close(call(nearswap, base[""], [expert[""]], t=0.03), torch.tensor(reference).float(), **NEAR)
