"""DARE: masks that are functions of places, rescaling, and what the thinned task vectors are merged by."""

import independent
import numpy as np
import pytest
import torch
import worked_examples
from arrays import NEAR, assert_golden, assert_law, call, golden, law_cases, models, of_experts, tensor

from fusing import fuse
from fusionbench.errors import ConfigError
from fusionbench.methods import dare as module
from fusionbench.methods._random import uniform
from fusionbench.methods.dare import dare
from fusionbench.methods.task_arithmetic import task_arithmetic
from fusionbench.weights.plan import Site, seed_of

RESCALE = {"inverse": "inverse", "l1": "norm", "none": "none"}
SHAPES = {"a.weight": (7, 9), "a.bias": (9,), "b.weight": (30,), "scale": ()}
GOLDEN = golden("mergekit", "dare_linear", "dare_ties", skip=["frequency"]) + golden("fusion_bench", "dare")


def site_of(name="w", experts=("a", "b"), seed=0, shape=(4,)):
    return Site(name, shape, 0, "matrix", True, "", None, 1, experts, seed)


def masks_of(base, experts, density, seed=0):
    """The masks of a run by name of tensor and expert, from the generator itself."""
    sites = {
        name: site_of(name, tuple(experts), seed_of(seed, "dare"), tuple(value.shape)) for name, value in base.items()
    }
    return {
        name: [(uniform(sites[name], expert, value) < density).numpy().astype(float) for expert in experts]
        for name, value in base.items()
    }


def thinned(base, experts, density, kind):
    """The independent reference's thinned task vectors, given the run's masks."""
    masks = masks_of(base, experts, density)
    return [
        {
            name: independent.dare_delta(
                (expert[name] - base[name]).double().numpy(), masks[name][i], density=density, rescale=kind
            )
            for name in base
        }
        for i, expert in enumerate(experts.values())
    ]


@pytest.mark.parametrize("example", [e for e in worked_examples.DELTA_EXAMPLES if e.method == "dare"], ids=str)
def test_worked_numbers_of_the_specification(example, monkeypatch):
    monkeypatch.setattr(module, "uniform", lambda site, expert, like: tensor(1 - example.mask))
    parameters = {**example.params, "rescale": RESCALE[example.params["rescale"]]}
    result = call(dare, np.zeros(4), [example.delta], scale=1.0, **parameters)
    assert result.tolist() == pytest.approx(example.expected.tolist())


def test_the_mean_of_many_draws_is_the_task_vector_with_variance_p_over_1_minus_p():
    size, density = 200_000, 0.2
    result = call(dare, np.zeros(size), [np.ones(size)], density=density, scale=1.0)
    variance = (1 - density) / density
    assert result.mean().item() == pytest.approx(1, abs=5 * (variance / size) ** 0.5)
    assert result.var().item() == pytest.approx(variance, rel=0.02)


def test_density_1_is_task_arithmetic_bit_for_bit():
    base, experts = models(3, {"": (40,)})
    inputs = [expert[""] for expert in experts]
    result = dare(base[""], inputs, density=1.0, weights=[1.0, -0.5, 2.0], scale=0.4)
    assert torch.equal(result, task_arithmetic(base[""], inputs, weights=[1.0, -0.5, 2.0], scale=0.4))


def test_normalised_the_sum_becomes_a_mean():
    result = call(dare, [1.0], [[2.0], [5.0]], density=1.0, weights=[1, 3], normalize=True, scale=2.0)
    assert result.item() == 1 + 2 * (1 * 1 + 3 * 4) / 4


def test_each_expert_tensor_and_seed_has_a_mask_of_its_own():
    ones = torch.ones(2000)
    masks = [
        dare(ones * 0, [ones], density=0.5, scale=1.0, site=site_of(name, (expert,), seed, (2000,)))
        for name, expert, seed in [("w", "a", 0), ("v", "a", 0), ("w", "b", 0), ("w", "a", 1)]
    ]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert 800 < (one != other).sum() < 1200


def test_the_order_of_experts_is_no_matter_where_their_names_move_along():
    base, (one, two) = models(2, SHAPES)
    first = fuse("dare", base, {"a": one, "b": two}, {"density": 0.4})
    second = fuse("dare", base, {"b": two, "a": one}, {"density": 0.4})
    for name in SHAPES:
        torch.testing.assert_close(first[name], second[name])


def test_densities_and_weights_may_differ_by_expert():
    base = torch.zeros(1000)
    result = dare(base, [base + 1, base + 100], density=[1.0, 0.1], weights=[2.0, 1.0], scale=1.0)
    assert set(result.round().tolist()) == {2.0, 1002.0}
    assert (result > 500).float().mean().item() == pytest.approx(0.1, abs=0.05)


def test_chunks_and_threads_change_no_bit():
    base = {"w": torch.zeros((1 << 20) + 333)}
    random = torch.Generator().manual_seed(0)
    experts = {name: {"w": torch.randn(base["w"].shape, generator=random)} for name in "ab"}
    parameters = {"density": 0.3, "scale": 1.0, "rescale": "norm"}
    chunked = fuse("dare", base, experts, parameters, run={"threads": 2})["w"]
    site = site_of("w", ("a", "b"), seed_of(0, "dare"), tuple(base["w"].shape))
    assert torch.equal(chunked, dare(base["w"], [e["w"] for e in experts.values()], **parameters, site=site))


@pytest.mark.parametrize("kind", ["inverse", "l1", "none"])
@pytest.mark.parametrize("combine", ["linear", "ties", "ties_sum"])
def test_a_run_equals_the_independent_reference(kind, combine):
    base, drawn = models(3, SHAPES)
    experts = dict(zip("abc", drawn, strict=True))
    parameters = {
        "density": 0.6,
        "weights": [1.0, 0.5, -0.7],
        "scale": 0.8,
        "rescale": RESCALE[kind],
        "combine": combine.partition("_")[0],
        "normalize": combine == "ties",
    }
    result = fuse("dare", base, experts, parameters)
    taus = thinned(base, experts, 0.6, kind)
    for name, origin in base.items():
        expected = independent_combine(origin, [tau[name] for tau in taus], [1.0, 0.5, -0.7], 0.8, combine)
        torch.testing.assert_close(result[name], expected, **NEAR)


def independent_combine(origin, taus, weights, scale, combine):
    from independent_linear import combine_deltas

    shape = tuple(origin.shape)
    found = combine_deltas(origin.double().numpy(), [tau.reshape(shape) for tau in taus], weights, scale, combine)
    return torch.tensor(found).float().reshape(shape)


def test_ties_density_trims_the_whole_thinned_task_vector():
    base, drawn = models(3, SHAPES)
    experts = dict(zip("abc", drawn, strict=True))
    parameters = {"density": 0.5, "combine": "ties", "normalize": True, "ties_density": 0.2, "scale": 1.0}
    result = fuse("dare", base, experts, parameters)
    origin = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    expected = independent.ties(origin, thinned(base, experts, 0.5, "inverse"), density=0.2)
    for name, value in base.items():
        torch.testing.assert_close(result[name], value + torch.tensor(expected[name]).float(), **NEAR)


def test_ties_after_the_drop_can_count_and_break_ties_as_fusion_bench():
    base, drawn = models(3, SHAPES)
    experts = dict(zip("abc", drawn, strict=True))
    parameters = {"density": 0.5, "combine": "ties", "ties_density": 0.2, "scale": 0.5}
    result = fuse("dare", base, experts, {**parameters, **dare.entry.compat["fusion_bench"]})
    origin = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    taus = thinned(base, experts, 0.5, "inverse")
    expected = independent.official_ties(origin, taus, density=0.2, scale=0.5, combine="sum")
    for name, value in base.items():
        torch.testing.assert_close(result[name], value + torch.tensor(expected[name]).float(), **NEAR)


def test_keep_official_keeps_one_more_and_zero_sign_elects_exact_ties():
    base = np.zeros(4)
    parameters = {"density": 1.0, "combine": "ties", "normalize": True, "scale": 1.0}
    assert call(dare, base, [[4, 3, 2, 1]], ties_density=0.5, **parameters).tolist() == [4, 3, 0, 0]
    assert call(dare, base, [[4, 3, 2, 1]], ties_density=0.5, keep="official", **parameters).tolist() == [4, 3, 2, 0]
    opposed = [[1, 2, 2, 2], [-1, 1, 1, 1]]
    assert call(dare, base, opposed, **parameters).tolist() == [0, 1.5, 1.5, 1.5]
    for zero_sign in ("majority", "positive"):
        assert call(dare, base, opposed, zero_sign=zero_sign, **parameters).tolist() == [1, 1.5, 1.5, 1.5]
    majority = call(dare, base, -np.array(opposed), zero_sign="majority", **parameters)
    assert majority.tolist() == [-1, -1.5, -1.5, -1.5]


def test_tensors_of_few_entries_can_be_left_whole():
    base, (expert,) = models(1, SHAPES)
    result = fuse("dare", base, {"a": expert}, {"density": 0.1, "scale": 1.0, "min_entries": 10})
    for name in ("a.bias", "scale"):
        torch.testing.assert_close(result[name], expert[name])
    assert (result["a.weight"] == base["a.weight"]).sum() > 40


@pytest.mark.parametrize("case", GOLDEN)
def test_peers_give_the_same_for_the_masks_they_drew(case, monkeypatch):
    given = case.parameters
    mergekit = case.peer == "mergekit"
    parameters = {
        "density": given["density"] if mergekit else 1 - given["sparsity_ratio"],
        "weights": of_experts(given.get("weight", 1.0), case),
        "scale": given.get("lambda", 1.0),
        "combine": "ties" if case.method == "dare_ties" else "linear",
    }
    if not given.get("rescale", True):
        parameters["rescale"] = "none"
    waiting = [name for name in case.expected if name != "bn.num_batches_tracked"]

    def theirs(site, expert, like):
        name = waiting.pop(0)
        return 1 - (case.expected[name] != case.base[name]).float()

    monkeypatch.setattr(module, "uniform", theirs)
    assert_golden(dare, case, **parameters)


def test_trimming_without_ties_is_refused_with_the_fix():
    with pytest.raises(ConfigError, match=r"method\.ties_density=0\.2 trims for TIES: add method\.combine=ties"):
        call(dare, [0.0], [[1.0]], ties_density=0.2)
    base, (expert,) = models(1, SHAPES)
    by_tensor = [{"filter": "a.", "value": 0.2}, {"value": 1.0}]
    with pytest.raises(ConfigError, match=r"ties_density is one share of the whole model; got .*'a\.'"):
        fuse("dare", base, {"a": expert}, {"combine": "ties", "ties_density": by_tensor})


@pytest.mark.parametrize(("method", "law"), law_cases(dare))
def test_claimed_laws_hold(method, law):
    assert_law(method, law)
    if law != "shift":
        assert_law(method, law, combine="ties", normalize=True, rescale="norm")
