"""MagMax keeps, of every entry, the task vector that moved it most."""

import independent
import pytest
import torch
from arrays import NEAR, assert_golden, assert_law, call, golden, law_cases, models, worked

from fusionbench.methods.magmax import magmax


@pytest.mark.parametrize(("parameters", "base", "experts", "expected"), worked("magmax"))
def test_worked_numbers_of_the_specification(parameters, base, experts, expected):
    torch.testing.assert_close(call(magmax, base, experts, **parameters).numpy(), expected.astype("float32"), **NEAR)


def test_each_entry_is_moved_as_far_as_the_expert_that_moved_it_most():
    result = call(magmax, [1, 1, 1], [[1.5, 0.0, 1.25], [0.75, 1.5, 1.5]], scale=1.0)
    assert result.tolist() == [1.5, 0.0, 1.5]


def test_of_equal_moves_in_opposite_directions_the_later_expert_is_taken():
    assert call(magmax, [0.0], [[0.5], [-0.5]], scale=1.0).item() == -0.5
    assert call(magmax, [0.0], [[-0.5], [0.5]], scale=1.0).item() == 0.5


def test_no_sign_is_elected_unlike_in_ties_with_max():
    assert call(magmax, [0.0], [[0.6], [-0.5], [-0.5]], scale=1.0).item() == pytest.approx(0.6)


@pytest.mark.parametrize("case", golden("fusion_bench", "magmax"))
def test_fusion_bench_gives_the_same(case):
    assert_golden(magmax, case, scale=case.parameters["scaling_factor"])


@pytest.mark.parametrize(("method", "law"), law_cases(magmax))
def test_claimed_laws_hold(method, law):
    assert_law(method, law)


def test_equals_the_independent_reference():
    base, experts = models(4, {"": (50,)})
    reference = independent.magmax(base[""].numpy(), [expert[""].numpy() for expert in experts], scale=0.8)
    torch.testing.assert_close(
        call(magmax, base[""], [e[""] for e in experts], scale=0.8), torch.tensor(reference).float(), **NEAR
    )
