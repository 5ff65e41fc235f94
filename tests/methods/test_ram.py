"""RAM: means over those that changed an entry; what one changed alone stays whole, and may grow."""

import independent
import numpy as np
import pytest
import torch
from arrays import NEAR, assert_golden, assert_law, call, golden, law_cases, models, worked

from fusing import fuse
from fusionbench.methods.ram import ram

THEIRS = {"r": "gain", "alpha": "most", "epsilon": "epsilon"}


@pytest.mark.parametrize(("parameters", "base", "experts", "expected"), worked("ram"))
def test_worked_numbers_of_the_page(parameters, base, experts, expected):
    torch.testing.assert_close(call(ram, base, experts, **parameters).numpy(), expected.astype("float32"), **NEAR)


def test_what_one_expert_changed_stays_whole_and_the_rest_is_averaged_over_those_who_changed_it():
    experts = [[1, 2, 0, 4], [0, 4, 0, 5], [0, 0, 0, 9]]
    assert call(ram, [0, 0, 0, 0], experts).tolist() == [1, 3, 0, 6]


def test_a_change_of_exactly_epsilon_is_none():
    assert call(ram, [0, 0], [[0.5, 0.75]], epsilon=0.5).tolist() == [0, 0.75]


def test_own_entries_grow_with_the_share_of_others_up_to_a_limit():
    experts = [[1, 1, 1, 0], [0, 1, 1, 0]]  # the first shares two entries and has one alone
    assert call(ram, [0] * 4, experts, gain=0.1, most=5.0).tolist() == pytest.approx([1.2, 1, 1, 0])
    assert call(ram, [0] * 4, experts, gain=0.1, most=0.5).tolist() == pytest.approx([1.05, 1, 1, 0])


def test_entries_are_counted_over_the_model_or_in_each_tensor():
    base = {"a": torch.zeros(2), "b": torch.zeros(2)}
    experts = {
        "x": {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 1.0])},
        "y": {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([1.0, 1.0])},
    }
    growing = {"gain": 0.5, "most": 9.0}
    assert fuse("ram", base, experts, growing)["a"].tolist() == [2, 0]  # ρ = 2 / 1
    assert fuse("ram", base, experts, {**growing, "scope": "tensor"})["a"].tolist() == [1, 0]  # ρ = 0 / 1


@pytest.mark.parametrize("case", [*golden("mergekit", "ram"), *golden("mergekit", "ramplus_tl")])
def test_mergekit_gives_the_same(case):
    own = {"gain": 0.1} if case.method == "ramplus_tl" else {}
    assert_golden(ram, case, **{**own, **{THEIRS[key]: value for key, value in case.parameters.items()}})


@pytest.mark.parametrize(("method", "law"), law_cases(ram))
def test_claimed_laws_hold(method, law):
    assert_law(method, law)
    assert_law(method, law, gain=0.5, epsilon=0.05, most=3.0)


@pytest.mark.parametrize("shape", [(), (40,), (5, 6), (4, 3, 2, 2)])
@pytest.mark.parametrize("parameters", [{}, {"epsilon": 0.1}, {"gain": 0.4, "most": 2.0, "epsilon": 0.1}])
def test_equals_the_independent_reference(shape, parameters):
    base, experts = models(4, {"": shape})
    arrays = [expert[""].numpy().astype(np.float64) for expert in experts]
    reference = independent.ram(base[""].numpy().astype(np.float64), arrays, **parameters)
    result = call(ram, base[""], [expert[""] for expert in experts], **parameters)
    torch.testing.assert_close(result, torch.tensor(reference).float().reshape(shape), **NEAR)
