"""Breadcrumbs: the mask between outliers and small entries, and what the masked task vectors are merged by."""

import independent
import numpy as np
import pytest
import torch
from arrays import NEAR, assert_golden, assert_law, call, golden, law_cases, models, of_experts, worked

from fusionbench.errors import ConfigError
from fusionbench.methods.breadcrumbs import breadcrumbs
from fusionbench.weights.plan import Site

TEN = np.arange(1.0, 11.0)
ZERO = np.zeros(10)


def kept(**parameters):
    """Which of the numbers 1 to 10 stay."""
    return [value for value in call(breadcrumbs, ZERO, [TEN], scale=1.0, **parameters).tolist() if value]


@pytest.mark.parametrize(("parameters", "base", "experts", "expected"), worked("breadcrumbs"))
def test_worked_numbers_of_the_specification(parameters, base, experts, expected):
    result = call(breadcrumbs, base, experts, **parameters)
    torch.testing.assert_close(result.numpy(), expected.astype("float32"), **NEAR)


def test_one_tenth_is_dropped_on_top_and_the_next_half_kept():
    assert kept(top_drop=0.1, density=0.5) == [5, 6, 7, 8, 9]


def test_the_share_that_is_dropped_below_says_the_same_as_the_share_that_stays():
    assert kept(top_drop=0.1, density=None, bottom_drop=0.4) == [5, 6, 7, 8, 9]
    assert kept(top_drop=0.0, density=None, bottom_drop=0.85) == [9, 10]
    assert kept(top_drop=0.2, density=None, bottom_drop=0.85) == [8]  # at least one
    assert kept(top_drop=0.2, density=None, bottom_drop=0.85, keep="exact") == []
    assert kept(top_drop=0.2, density=None, bottom_drop=0.5, keep="official") == [5, 6, 7, 8]


def test_where_too_few_are_left_fewer_large_ones_are_dropped():
    assert kept(top_drop=0.5, density=0.9) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_small_tensors_keep_one_entry_or_none():
    assert call(breadcrumbs, [0, 0], [[1, 2]], scale=1.0).tolist() == [0, 2]
    assert call(breadcrumbs, [0, 0], [[1, 2]], scale=1.0, keep="exact").tolist() == [0, 0]


def test_rows_of_gpt2s_conv1d_are_its_columns():
    base, (expert,) = models(1, {"": (5, 8)})
    parameters = {"granularity": "row", "density": 0.4, "top_drop": 0.2}
    site = Site("h.0.mlp.c_fc.weight", (8, 5), 0, "matrix", False, "", 0, 1, ("a",), 0)
    turned = breadcrumbs(base[""].T, [expert[""].T], site=site, **parameters)
    assert torch.equal(turned.T, breadcrumbs(base[""], [expert[""]], **parameters))
    assert not torch.equal(turned.T, breadcrumbs(base[""].T, [expert[""].T], **parameters).T)


def test_shares_and_weights_may_differ_by_expert():
    result = call(breadcrumbs, ZERO, [TEN, TEN], top_drop=[0.0, 0.5], density=[0.1, 0.2], weights=[1, 10], scale=1.0)
    assert result.tolist() == [0, 0, 0, 40, 50, 0, 0, 0, 0, 10]


def test_normalised_and_elected_sums():
    opposed, options = [[4, 1], [-2, 1]], {"density": 1.0, "top_drop": 0.0, "scale": 1.0}
    assert call(breadcrumbs, [0, 0], opposed, **options).tolist() == [2, 2]
    assert call(breadcrumbs, [0, 0], opposed, normalize=True, **options).tolist() == [1, 1]
    assert call(breadcrumbs, [0, 0], opposed, combine="ties", **options).tolist() == [4, 2]
    tied = [[2, 1], [-2, 1]]
    assert call(breadcrumbs, [0, 0], tied, combine="ties", **options).tolist() == [0, 2]
    assert call(breadcrumbs, [0, 0], tied, combine="ties", zero_sign="positive", **options).tolist() == [2, 2]


def test_rescaling_gives_the_norm_back():
    result = call(breadcrumbs, np.zeros(4), [[1, 2, 3, 4]], top_drop=0.25, density=0.25, rescale="norm", scale=1.0)
    assert result.tolist() == [0, 0, 10, 0]


def test_both_or_neither_share_is_refused_with_the_fix():
    with pytest.raises(ConfigError, match=r"density=0\.143 and method\.bottom_drop=0\.85 both .* one of them to null"):
        call(breadcrumbs, [0.0], [[1.0]], bottom_drop=0.85)
    with pytest.raises(ConfigError, match=r"both null: set density=0\.143, or bottom_drop=0\.85"):
        call(breadcrumbs, [0.0], [[1.0]], density=None)


@pytest.mark.parametrize("case", golden("mergekit", "breadcrumbs", "breadcrumbs_ties"))
def test_mergekit_gives_the_same(case):
    given = case.parameters
    assert_golden(
        breadcrumbs,
        case,
        top_drop=of_experts(given.get("gamma", 0.01), case),
        density=of_experts(given["density"], case),
        weights=of_experts(given["weight"], case),
        scale=given.get("lambda", 1.0),
        combine="ties" if case.method == "breadcrumbs_ties" else "linear",
        normalize=given.get("normalize", False),
        rescale="norm" if given.get("rescale", False) else "none",
    )


@pytest.mark.parametrize(("method", "law"), law_cases(breadcrumbs))
def test_claimed_laws_hold(method, law):
    assert_law(method, law)
    assert_law(method, law, combine="ties", granularity="row", density=0.5)


@pytest.mark.parametrize("shape", [(), (7,), (1, 1), (5, 6), (4, 3, 2, 2)])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("combine", ["linear", "ties"])
def test_equals_the_independent_reference(shape, granularity, combine):
    base, experts = models(3, {"": shape})
    vectors = [expert[""].numpy() for expert in experts]
    parameters = {"top_drop": 0.2, "density": 0.4, "granularity": granularity, "combine": combine, "scale": 0.7}
    reference = independent.breadcrumbs(base[""].numpy(), vectors, weights=[1.0, 0.5, 2.0], **parameters)
    parameters["normalize"] = combine == "ties"
    result = call(breadcrumbs, base[""], vectors, weights=[1.0, 0.5, 2.0], **parameters)
    torch.testing.assert_close(result, torch.tensor(reference).float(), **NEAR)
