"""DELLA: probabilities by rank, and what the thinned task vectors are merged by."""

import independent
import numpy as np
import pytest
import torch
import worked_examples
from arrays import NEAR, assert_golden, assert_law, call, golden, law_cases, models, of_experts, tensor
from independent_linear import combine_deltas

from fusing import fuse
from fusionbench.errors import ConfigError
from fusionbench.methods import della as module
from fusionbench.methods._random import uniform
from fusionbench.methods.dare import dare
from fusionbench.methods.della import della, keep_probability
from fusionbench.weights.plan import Site, seed_of

RESCALE = {"inverse": "inverse", "l1": "norm", "none": "none"}
SHAPES = {"a.weight": (7, 9), "a.bias": (9,), "conv": (4, 3, 2, 2), "column": (5, 1), "scale": ()}
CONV1D = Site("h.0.attn.c_attn.weight", (6, 4), 0, "matrix", False, "", 0, 1, ("a",), 0)


def test_probabilities_rise_with_the_rank_of_the_magnitude():
    found = keep_probability(tensor([4, -1, 3, 2]), 0.5, 0.15)
    assert found.tolist() == pytest.approx([0.65, 0.35, 0.55, 0.45])


def test_ranks_are_within_rows_filters_and_whole_vectors():
    for name, shape in SHAPES.items():
        delta = models(1, {"": shape}, seed=len(name))[0][""]
        expected = independent.della_keep_probabilities(delta.numpy(), density=0.6, epsilon=0.2)
        np.testing.assert_allclose(keep_probability(delta, 0.6, 0.2).numpy(), expected, atol=1e-6)


def test_rows_of_gpt2s_conv1d_are_its_columns():
    delta = models(1, {"": (6, 4)})[0][""]
    assert torch.equal(keep_probability(delta, 0.6, 0.2, CONV1D), keep_probability(delta.T, 0.6, 0.2).T)


def test_a_row_of_one_entry_is_kept_with_the_density():
    assert keep_probability(tensor([[3], [1]]), 0.6, 0.2).tolist() == [[pytest.approx(0.6)], [pytest.approx(0.6)]]


@pytest.mark.parametrize("example", [e for e in worked_examples.DELTA_EXAMPLES if e.method == "della"], ids=str)
def test_worked_numbers_of_the_specification(example, monkeypatch):
    monkeypatch.setattr(module, "drawn", lambda site, expert, like: tensor(1 - example.mask))
    parameters = {**example.params, "rescale": RESCALE[example.params["rescale"]]}
    result = call(della, np.zeros(4), [example.delta], scale=1.0, **parameters)
    assert result.tolist() == pytest.approx(example.expected.tolist(), abs=2e-6)


def test_epsilon_0_is_dare_with_the_same_draws():
    base, (expert,) = models(1, {"": (6, 50)})
    both = {"density": 0.4, "scale": 1.0}
    assert torch.equal(della(base[""], [expert[""]], epsilon=0.0, **both), dare(base[""], [expert[""]], **both))


def test_the_mean_of_many_draws_is_the_task_vector():
    row = torch.tensor([1.0, 2.0, 3.0, 4.0])
    result = call(della, np.zeros((50_000, 4)), [row.expand(50_000, 4)], density=0.5, epsilon=0.3, scale=1.0)
    kept = (result != 0).float().mean(0)
    assert kept.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=0.01)
    assert result.mean(0).tolist() == pytest.approx(row.tolist(), rel=0.05)


@pytest.mark.parametrize("kind", ["inverse", "l1", "none"])
@pytest.mark.parametrize("combine", ["linear", "ties", "ties_sum"])
def test_a_run_equals_the_independent_reference(kind, combine):
    base, drawn = models(3, SHAPES)
    experts = dict(zip("abc", drawn, strict=True))
    weights, densities, epsilons = [1.0, 0.5, -0.7], [0.6, 0.5, 1.0], [0.2, 0.1, 0.3]
    parameters = {
        "density": densities,
        "epsilon": epsilons,
        "weights": weights,
        "scale": 0.8,
        "rescale": RESCALE[kind],
        "combine": combine.partition("_")[0],
        "normalize": combine == "ties",
    }
    result = fuse("della", base, experts, parameters)
    for name, origin in base.items():
        site = Site(name, tuple(origin.shape), 0, "other", True, "", None, 1, ("a", "b", "c"), seed_of(0, "della"))
        taus = []
        for (expert, state), density, epsilon in zip(experts.items(), densities, epsilons, strict=True):
            delta = (state[name] - origin).numpy()
            if density < 1:
                chance = independent.della_keep_probabilities(delta, density=density, epsilon=epsilon)
                mask = (uniform(site, expert, origin).numpy() < chance).astype(float)
                delta = independent.della_delta(
                    delta.astype(float), mask, density=density, epsilon=epsilon, rescale=kind
                )
            taus.append(delta.astype(float))
        expected = combine_deltas(origin.double().numpy(), taus, weights, 0.8, combine)
        torch.testing.assert_close(result[name], torch.tensor(expected).float().reshape(origin.shape), **NEAR)


@pytest.mark.parametrize("case", golden("mergekit", "della", "della_linear", skip=["frequency"]))
def test_mergekit_gives_the_same_for_the_masks_it_drew(case, monkeypatch):
    given = case.parameters
    parameters = {
        "density": given["density"],
        "epsilon": 0.15,
        "weights": of_experts(given["weight"], case),
        "scale": 1.0,
        "combine": "ties" if case.method == "della" else "linear",
        "normalize": case.method == "della",
    }
    if not given.get("rescale", True):
        parameters["rescale"] = "none"
    waiting = [name for name in case.expected if name != "bn.num_batches_tracked"]

    def theirs(site, expert, like):
        name = waiting.pop(0)
        return 1 - (case.expected[name] != case.base[name]).float()

    monkeypatch.setattr(module, "drawn", theirs)
    assert_golden(della, case, **parameters)


def test_an_exact_tie_elects_nothing_or_plus():
    opposed = [[1, 2], [-1, 1]]
    assert call(della, [0, 0], opposed, density=1.0, scale=1.0).tolist() == [0, 1.5]
    assert call(della, [0, 0], opposed, density=1.0, scale=1.0, zero_sign="positive").tolist() == [1, 1.5]


@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.1), (0.9, 0.2), (0.05, 0.5)])
def test_probabilities_outside_0_to_1_are_refused_with_the_fix(density, epsilon):
    with pytest.raises(ConfigError, match=r"must lie in \(0, 1\]\. Set epsilon below") as caught:
        call(della, [0.0, 1.0], [[1.0, 1.0]], density=density, epsilon=epsilon)
    assert f"method.density={density} ± method.epsilon={epsilon}" in str(caught.value)


def test_density_1_keeps_all_whatever_epsilon_is():
    assert call(della, [0.0, 0.0], [[1.0, 2.0]], density=1.0, epsilon=0.15, scale=1.0).tolist() == [1, 2]


@pytest.mark.parametrize(("method", "law"), law_cases(della))
def test_claimed_laws_hold(method, law):
    assert_law(method, law)
