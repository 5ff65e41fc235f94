"""Model Stock: how far to the experts' mean, told from the angles between task vectors."""

import math

import independent
import pytest
import torch
import worked_examples
from arrays import NEAR, assert_golden, assert_law, call, golden, law_cases, models, worked

from fusionbench.errors import ConfigError
from fusionbench.methods.model_stock import model_stock
from fusionbench.weights.plan import Site

STOCK = [[1, 0], [0.6, 0.8], [0, 1]]
ONE_ENTRY = ["one.bias", "scale"]
"""Here angles are 0 or 180 degrees: fusion_bench's arccos in float32 is off, and its divisor 1e-8 where they mix."""


@pytest.mark.parametrize(("parameters", "base", "experts", "expected"), worked("model_stock"))
def test_worked_numbers_of_the_specification(parameters, base, experts, expected):
    result = call(model_stock, base, experts, **parameters)
    torch.testing.assert_close(result.numpy(), expected.astype("float32"), **NEAR)


def test_worked_numbers_of_fusion_bench():
    (example,) = [e for e in worked_examples.COMPAT_EXAMPLES if e.method == "model_stock"]
    preset = model_stock.entry.compat["fusion_bench"]
    result = call(model_stock, example.base, example.experts, **preset)
    torch.testing.assert_close(result.numpy(), example.expected.astype("float32"), **NEAR)


def test_a_cosine_of_0_6_goes_three_quarters_of_the_way():
    assert call(model_stock, [0, 0], STOCK[:2]).tolist() == pytest.approx([0.75 * 0.8, 0.75 * 0.4])


def test_equal_task_vectors_are_taken_whole_and_perpendicular_ones_not_at_all():
    assert call(model_stock, [1, 1], [[2, 1], [2, 1]]).tolist() == [2, 1]
    assert call(model_stock, [1, 1], [[2, 1], [1, 3]]).tolist() == [1, 1]


def test_more_than_two_experts_have_a_mean_cosine_or_a_mean_angle():
    cosine = (0.6 + 0 + 0.8) / 3
    ratio = 3 * cosine / (1 + 2 * cosine)
    assert call(model_stock, [0, 0], STOCK).tolist() == pytest.approx([ratio * 1.6 / 3, ratio * 1.8 / 3])
    angle = math.cos((math.acos(0.6) + math.acos(0.8) + math.pi / 2) / 3)
    ratio = 3 * angle / (1 + 2 * angle)
    result = call(model_stock, [0, 0], STOCK, average="angle")
    assert result.tolist() == pytest.approx([ratio * 1.6 / 3, ratio * 1.8 / 3])


def test_obtuse_task_vectors_keep_the_base_unless_the_share_may_be_negative():
    obtuse = [[1, 0], [-0.6, 0.8]]
    assert call(model_stock, [0, 0], obtuse).tolist() == [0, 0]
    ratio = 2 * -0.6 / (1 - 0.6)
    assert call(model_stock, [0, 0], obtuse, clamp=False).tolist() == pytest.approx([ratio * 0.2, ratio * 0.4])


def test_opposite_task_vectors_keep_the_base_whatever_the_options():
    for average in ("cosine", "angle"):
        for clamp in (True, False):
            assert call(model_stock, [1, 2], [[2, 2], [0, 2]], average=average, clamp=clamp).tolist() == [1, 2]


def test_an_angle_beyond_the_pole_keeps_the_base():
    spread = [[1], [-1], [3], [-1]]  # mean angle 120 degrees of four: the share would be 4·(−.5)/(1−1.5) = 4
    assert call(model_stock, [0], spread, average="angle").tolist() == [0]


def test_small_task_vectors_count_as_much_as_large_ones_unless_a_peers_guard_says_no():
    small = [[1e-5, 0], [0.6e-5, 0.8e-5]]
    exact = call(model_stock, [0, 0], small)
    assert exact.tolist() == pytest.approx([0.75 * 0.8e-5, 0.75 * 0.4e-5])
    floored = 2 * 0.6e-4 / (1 + 0.6e-4)  # cosine 0.6e-10 / 1e-6
    assert call(model_stock, [0, 0], small, small_norms="floor").tolist() == pytest.approx(
        [floored * 0.8e-5, floored * 0.4e-5]
    )
    cosine = 0.6e-10 / (1e-10 + 1e-8)
    offset = 2 * cosine / (1 + cosine)
    assert call(model_stock, [0, 0], small, small_norms="offset").tolist() == pytest.approx(
        [offset * 0.8e-5, offset * 0.4e-5]
    )


def test_an_expert_that_did_not_change_counts_as_perpendicular():
    result = call(model_stock, [0, 0], [[1, 0], [0.6, 0.8], [0, 0]])
    ratio = 3 * 0.2 / (1 + 2 * 0.2)
    assert result.tolist() == pytest.approx([ratio * 1.6 / 3, ratio * 0.8 / 3])


def test_each_output_row_may_have_a_share_of_its_own():
    first, second = [[1, 0], [1, 0]], [[1, 0], [0, 1]]
    assert call(model_stock, [[0, 0], [0, 0]], [first, second], granularity="row").tolist() == [[1, 0], [0, 0]]


def test_rows_of_gpt2s_conv1d_are_its_columns():
    base, (one, two) = models(2, {"": (4, 3)})
    site = Site("h.0.mlp.c_fc.weight", (3, 4), 0, "matrix", False, "", 0, 1, ("a", "b"), 0)
    turned = model_stock(base[""].T, [one[""].T, two[""].T], granularity="row", site=site)
    torch.testing.assert_close(turned.T, model_stock(base[""], [one[""], two[""]], granularity="row"))


@pytest.mark.parametrize("case", golden("mergekit", "model_stock") + golden("fusion_bench", "model_stock"))
def test_peers_give_the_same(case):
    by_row = bool(case.parameters.get("filter_wise"))
    # mergekit's filter is one line of a kernel; ignored tensors are averaged by fusion_bench.
    skip = [*(["conv.weight"] if by_row else []), *case.parameters.get("ignore_keys", [])]
    if case.peer == "fusion_bench":
        skip += ONE_ENTRY
    assert_golden(model_stock, case, skip, granularity="row" if by_row else "tensor")


def test_one_expert_is_refused_with_the_fix():
    with pytest.raises(ConfigError, match=r"needs two experts or more: .* Add an expert"):
        call(model_stock, [0.0], [[1.0]])


@pytest.mark.parametrize(("method", "law"), law_cases(model_stock))
def test_claimed_laws_hold(method, law):
    assert_law(method, law)
    assert_law(method, law, granularity="row")


@pytest.mark.parametrize("shape", [(9,), (5, 6), (4, 3, 2, 2)])
@pytest.mark.parametrize("average", ["cosine", "angle"])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_equals_the_independent_reference(shape, average, granularity):
    base, experts = models(4, {"": shape}, seed=5)
    moved = [expert[""] + 0.05 for expert in experts]  # a common direction, so that shares lie inside (0, 1)
    reference = independent.model_stock(
        base[""].double().numpy(),
        [value.double().numpy() for value in moved],
        average=average,
        filter_wise=granularity == "row",
    )
    result = call(model_stock, base[""], moved, average=average, granularity=granularity)
    torch.testing.assert_close(result, torch.tensor(reference).float(), **NEAR)
    assert not torch.equal(result, base[""])
