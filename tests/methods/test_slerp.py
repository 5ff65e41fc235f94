"""SLERP and its relatives: arcs between two models, and means on the sphere of more."""

import math

import independent
import pytest
import torch
import worked_examples
from arrays import NEAR, assert_golden, assert_law, call, golden, law_cases, models, of_experts, worked

from fusionbench.errors import ConfigError
from fusionbench.methods.slerp import karcher, multislerp, nuslerp, slerp
from fusionbench.weights.plan import Site

METHODS = {"slerp": slerp, "nuslerp": nuslerp, "multislerp": multislerp, "karcher": karcher}
HALF = math.sqrt(0.5)
MODES = {(False, False): "row", (False, True): "column"}
CASES = [pytest.param(name, *example.values, id=f"{name}-{example.id}") for name in METHODS for example in worked(name)]


@pytest.mark.parametrize(("name", "parameters", "base", "experts", "expected"), CASES)
def test_worked_numbers_of_the_specification(name, parameters, base, experts, expected):
    result = call(METHODS[name], base, experts, **parameters)
    torch.testing.assert_close(result.numpy(), expected.astype("float32"), **NEAR)


def test_half_way_between_perpendicular_models_counts_each_by_the_root_of_one_half():
    result = call(slerp, None, [[1, 0], [0, 2]], t=0.5)
    assert result.tolist() == pytest.approx([HALF, 2 * HALF])


def test_slerp_of_one_expert_starts_at_the_base_and_of_two_experts_leaves_the_base_out():
    assert call(slerp, [1, 0], [[0, 2]], t=0.0).tolist() == [1, 0]
    assert call(slerp, [1, 0], [[0, 2]], t=1.0).tolist() == pytest.approx([0, 2], abs=1e-7)
    two = call(slerp, None, [[1, 0], [0, 2]], t=0.25)
    assert torch.equal(call(slerp, [7, 7], [[1, 0], [0, 2]], t=0.25), two)


@pytest.mark.parametrize(
    ("base", "count", "got"), [([0.0], 3, "3 experts and a base"), (None, 1, "got 1 expert\\."), (None, 3, "3 experts")]
)
def test_slerp_of_other_than_two_models_is_refused_with_the_fix(base, count, got):
    with pytest.raises(ConfigError, match=got) as caught:
        call(slerp, base, [[1.0]] * count)
    assert "karcher" in str(caught.value)


def test_nearly_parallel_and_opposite_models_are_joined_by_a_line():
    assert call(slerp, None, [[1, 0], [-2, 0]], t=0.25).tolist() == pytest.approx([0.25, 0])
    near = [1, 0.0001]
    assert call(slerp, None, [[1, 0], near], t=0.5).tolist() == pytest.approx([1, 0.00005], abs=1e-7)


def test_nuslerp_leaves_the_line_later_where_straight_is_1():
    bent = [[1, 0], [math.cos(0.02), math.sin(0.02)]]
    straight = call(nuslerp, None, bent)
    arc = call(nuslerp, None, bent, straight=1.0)
    assert straight.norm().item() == pytest.approx(math.cos(0.01), abs=2e-7)
    assert arc.norm().item() == pytest.approx(1.0, abs=2e-7)
    opposite = call(nuslerp, None, [[1, 0], [-2, 0]], straight=1.0)
    assert opposite.tolist() == pytest.approx([-0.5, 0])


def test_a_zero_tensor_is_left_by_a_line_or_as_peers_do_by_an_arc():
    assert call(slerp, None, [[0, 0], [0, 2]], t=0.5).tolist() == [0, 1]
    assert call(nuslerp, [1, 1], [[1, 1], [1, 3]]).tolist() == [1, 2]
    assert call(nuslerp, [1, 1], [[1, 1], [1, 3]], zero_norm="arc").tolist() == pytest.approx([1, 1 + 2 * HALF])
    (example,) = [e for e in worked_examples.COMPAT_EXAMPLES if e.method == "slerp"]
    result = call(slerp, example.base, example.experts, zero_norm="arc", **example.params)
    torch.testing.assert_close(result.numpy(), example.expected.astype("float32"), **NEAR)


@pytest.mark.parametrize("case", golden("mergekit", "slerp") + golden("fusion_bench", "slerp"))
def test_slerp_equals_its_peers(case):
    assert_golden(slerp, case, **case.parameters)


@pytest.mark.parametrize("case", golden("mergekit", "nuslerp"))
def test_nuslerp_equals_mergekit(case):
    flags = case.parameters.get("nuslerp_flatten", True), case.parameters.get("nuslerp_row_wise", False)
    weights = of_experts(case.parameters["weight"], case)
    assert_golden(nuslerp, case, weights=weights, mode=MODES.get(flags, "flat"))


def test_nuslerp_turns_rows_or_columns_by_angles_of_their_own():
    first, second = [[1, 0], [0, 1]], [[0, 2], [0, 3]]
    rows = call(nuslerp, None, [first, second], mode="row")
    assert rows[0].tolist() == pytest.approx([HALF, 2 * HALF])
    assert rows[1].tolist() == pytest.approx([0, 2])  # parallel rows are joined by a line
    columns = call(nuslerp, None, [first, second], mode="column")
    assert columns[:, 0].tolist() == pytest.approx([0.5, 0])  # the second model's first column is zero: a line
    cosine = 3 / math.sqrt(13)
    factor = math.sin(math.acos(cosine) / 2) / math.sin(math.acos(cosine))
    assert columns[:, 1].tolist() == pytest.approx([2 * factor, 4 * factor])


def test_nuslerp_rows_of_gpt2s_conv1d_are_its_columns():
    _, (one, two) = models(2, {"": (4, 3)})
    first, second = one[""], two[""]
    site = Site("h.0.mlp.c_fc.weight", (3, 4), 0, "matrix", False, "", 0, 1, ("a", "b"), 0)
    turned = nuslerp(None, [first.T, second.T], mode="row", site=site)
    torch.testing.assert_close(turned.T, nuslerp(None, [first, second], mode="row"))
    turned = nuslerp(None, [first.T, second.T], mode="column", site=site)
    torch.testing.assert_close(turned.T, nuslerp(None, [first, second], mode="column"))


def test_nuslerp_refuses_weights_that_give_no_share_and_any_count_but_two():
    with pytest.raises(ConfigError, match=r"1\.0 and -1\.0 sum to zero"):
        call(nuslerp, None, [[1.0], [2.0]], weights=[1.0, -1.0])
    with pytest.raises(ConfigError, match="exactly two experts, got 3; for more there is multislerp"):
        call(nuslerp, None, [[1.0]] * 3)


def test_multislerp_has_the_mean_norm_and_the_mean_direction():
    result = call(multislerp, None, [[2, 0], [0, 4]], weights=[0.25, 0.75])
    direction = [0.25 / math.hypot(0.25, 0.75), 0.75 / math.hypot(0.25, 0.75)]
    assert result.tolist() == pytest.approx([3.5 * part for part in direction])


def test_multislerp_takes_the_weighted_sum_where_directions_cancel():
    assert call(multislerp, None, [[1, 0], [-3, 0]]).tolist() == [-1, 0]
    triangle = [[1, 0], [-0.5, math.sqrt(0.75)], [-0.5, -math.sqrt(0.75)]]
    assert call(multislerp, None, triangle).abs().max() < 1e-6


def test_multislerp_has_a_direction_however_small_the_weights_are():
    small = call(multislerp, None, [[2, 0], [0, 4]], weights=[0.25e-7, 0.75e-7], normalize=False)
    assert (small * 1e7).tolist() == pytest.approx([1.106797, 3.320392], abs=1e-5)


def test_multislerp_keeps_the_base_where_no_expert_changed_it():
    assert call(multislerp, [1, 2], [[1, 2], [1, 2]]).tolist() == [1, 2]


def test_multislerp_without_normalising_scales_with_the_weights():
    whole = call(multislerp, None, [[2, 0], [0, 4]], weights=[0.25, 0.75], normalize=False)
    assert torch.equal(whole, call(multislerp, None, [[2, 0], [0, 4]], weights=[1, 3]))
    double = call(multislerp, None, [[2, 0], [0, 4]], weights=[0.5, 1.5], normalize=False)
    torch.testing.assert_close(double, 2 * whole)


@pytest.mark.parametrize("case", golden("mergekit", "multislerp"))
def test_multislerp_equals_mergekit(case):
    weights = of_experts(case.parameters["weight"], case)
    assert_golden(multislerp, case, weights=weights, normalize=case.parameters.get("normalize_weights", True))


@pytest.mark.parametrize("case", golden("mergekit", "karcher"))
def test_karcher_equals_mergekit(case):
    assert_golden(karcher, case, max_iterations=case.parameters.get("max_iter", 10))


def test_karcher_pulls_balance_where_it_ends():
    _, experts = models(3, {"": (30,)})
    vectors = [torch.randn(30, generator=torch.Generator().manual_seed(i)).double() for i in range(len(experts))]
    result = call(karcher, None, vectors, max_iterations=100, tolerance=1e-7).double()
    mean = result / result.norm()
    pull = torch.zeros(30, dtype=torch.float64)
    for vector in vectors:
        unit = vector / vector.norm()
        angle = torch.arccos(unit @ mean)
        pull += angle / angle.sin() * (unit - angle.cos() * mean)
    assert pull.norm() < 1e-5
    assert result.norm().item() == pytest.approx(sum(v.norm().item() for v in vectors) / 3, rel=1e-6)


def test_karcher_of_two_is_the_arc_of_slerp_with_the_mean_norm():
    _, (one, two) = models(2, {"": (20,)})
    arc = call(nuslerp, None, [one[""] / one[""].norm(), two[""] / two[""].norm()], weights=[1, 3], straight=1.0)
    norm = 0.25 * one[""].norm() + 0.75 * two[""].norm()
    torch.testing.assert_close(call(karcher, None, [one[""], two[""]], weights=[1, 3]), arc * norm, **NEAR)


def test_karcher_stops_at_its_tolerance_and_after_its_iterations():
    vectors = [[1, 0, 0], [0.2, 1, 0], [0, 0.3, 2]]
    exact = call(karcher, None, vectors, max_iterations=100, tolerance=1e-9)
    start = call(karcher, None, vectors, tolerance=3.0)
    once = call(karcher, None, vectors, max_iterations=1)
    assert 1e-4 < (once - exact).norm() < (start - exact).norm()


def test_karcher_counts_a_zero_tensor_in_the_norm_only():
    assert call(karcher, None, [[2, 0], [0, 0]]).tolist() == [1, 0]
    assert call(karcher, None, [[0, 0], [0, 0]]).tolist() == [0, 0]


def test_karcher_stays_finite_where_experts_are_opposite():
    assert call(karcher, None, [[1, 0], [-3, 0]]).tolist() == [-1, 0]  # no direction: the mean
    assert call(karcher, None, [[1, 0], [1, 0], [-1, 0]]).tolist() == pytest.approx([1, 0])


@pytest.mark.parametrize("method", [multislerp, karcher])
def test_weights_that_sum_to_zero_are_refused(method):
    with pytest.raises(ConfigError, match="cannot be normalised"):
        call(method, None, [[1.0], [2.0]], weights=[0.0, 0.0])


@pytest.mark.parametrize(("method", "law"), law_cases(slerp, nuslerp, multislerp, karcher))
def test_claimed_laws_hold(method, law):
    assert_law(method, law, experts=3 if method in (multislerp, karcher) else 2)


@pytest.mark.parametrize(
    ("name", "count", "parameters"),
    [
        ("slerp", 2, {"t": 0.3}),
        ("nuslerp", 2, {"weights": [0.3, 0.9]}),
        ("nuslerp", 2, {"weights": [0.3, 0.9], "mode": "row"}),
        ("nuslerp", 2, {"weights": [0.3, 0.9], "mode": "column"}),
        ("multislerp", 4, {"weights": [0.1, 0.5, 0.2, 0.9]}),
        ("karcher", 4, {"weights": [0.1, 0.5, 0.2, 0.9]}),
    ],
)
@pytest.mark.parametrize("shape", [(), (7,), (5, 6), (4, 3, 2, 2)])
def test_equals_the_independent_reference(name, count, parameters, shape):
    _, experts = models(count, {"": shape}, seed=3)
    vectors = [expert[""].numpy() for expert in experts]
    reference = independent.METHODS[name](None, vectors, **parameters)
    result = call(METHODS[name], None, vectors, **parameters)
    torch.testing.assert_close(result, torch.tensor(reference).float(), **NEAR)
