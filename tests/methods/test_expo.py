"""ExPO goes on from the base past the experts."""

import independent
import pytest
import torch
from arrays import NEAR, assert_golden, assert_law, call, golden, law_cases, models, worked

from fusionbench.methods.expo import expo


@pytest.mark.parametrize(("parameters", "base", "experts", "expected"), worked("expo"))
def test_worked_numbers_of_the_specification(parameters, base, experts, expected):
    torch.testing.assert_close(call(expo, base, experts, **parameters).numpy(), expected.astype("float32"), **NEAR)


def test_from_1_to_one_and_a_half_it_goes_on_to_1_65():
    assert call(expo, [1.0], [[1.5]], scale=0.3).item() == pytest.approx(1.65)


def test_scale_0_is_the_mean_of_the_experts_and_minus_1_is_the_base():
    assert call(expo, [0.0], [[1.0], [3.0]], scale=0.0).item() == 2.0
    assert call(expo, [0.5], [[1.0], [3.0]], scale=-1.0).item() == 0.5


@pytest.mark.parametrize("case", golden("fusion_bench", "expo"))
def test_fusion_bench_gives_the_same(case):
    assert_golden(expo, case, scale=case.parameters["extrapolation_factor"])


@pytest.mark.parametrize(("method", "law"), law_cases(expo))
def test_claimed_laws_hold(method, law):
    assert_law(method, law)


def test_equals_the_independent_reference():
    base, experts = models(3, {"": (40,)})
    reference = independent.expo(base[""].numpy(), [expert[""].numpy() for expert in experts], scale=0.7)
    torch.testing.assert_close(
        call(expo, base[""], [e[""] for e in experts], scale=0.7), torch.tensor(reference).float(), **NEAR
    )
