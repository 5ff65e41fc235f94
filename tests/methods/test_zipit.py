"""ZipIt: which units are merged, the weights that follow, and its limits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from permuting import STREAM, Convolved, Permuted, Stream, model, run
from test_git_rebasin import CHANNELS, CONVOLVED, FAMILY, assert_same, shuffled

from fusionbench.errors import ConfigError, IncompatibleModels
from fusionbench.families import Permutation
from fusionbench.methods._matching import Moments
from fusionbench.methods.zipit import greedy, zip_models, zipit

INNER = Permuted(Stream, groups=STREAM[:2])


def test_a_model_in_another_order_is_found_again(tmp_path: Path) -> None:
    one = model(Stream, 0)
    fused, kept = run(zipit, INNER, one, shuffled(one, STREAM[:2]), folder=tmp_path)
    assert_same(fused.weights, one)
    assert kept.used["adapted"] == {"split": "train", "tasks": ("points",), "count": 64}


def test_channels_of_a_convolution_are_merged_with_their_statistics(tmp_path: Path) -> None:
    one = model(Convolved, 0)
    fused, _ = run(zipit, CONVOLVED, one, shuffled(one, CHANNELS), folder=tmp_path)
    assert_same({n: fused.weights[n] for n in ("conv.weight", "conv.bias", "bn.weight", "last.weight")}, one)


def pairs(member: torch.Tensor) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(column).tolist()) for column in member.T.numpy()}


def correlations(**given: float) -> torch.Tensor:
    """Two models of two units (0, 1 and 2, 3): r01=.9 and so on; all others are 0."""
    matrix = torch.eye(4)
    for name, value in given.items():
        i, j = int(name[1]), int(name[2])
        matrix[i, j] = matrix[j, i] = value
    return matrix


def test_the_most_correlated_are_merged_first() -> None:
    assert pairs(greedy(correlations(r02=0.5, r03=0.8, r12=0.7, r13=0.1), 2, 2, 0.3, 0.0)) == {
        frozenset({0, 3}), frozenset({1, 2})
    }  # fmt: skip


def test_units_of_one_model_merge_only_within_their_share() -> None:
    matrix = correlations(r01=0.9, r23=0.8, r02=0.5, r13=0.4)
    assert pairs(greedy(matrix, 2, 2, 0.3, 1.0)) == {frozenset({0, 1}), frozenset({2, 3})}
    assert pairs(greedy(matrix, 2, 2, 0.3, 0.0)) == {frozenset({0, 2}), frozenset({1, 3})}


def test_what_is_merged_merges_again_only_where_alpha_leaves_it_the_most_similar() -> None:
    """After 0 and 2, their similarity to 3 is min(.8, .7)·α: .7 beats 1 and 3 (.5) at α = 1, not at α = .5."""
    matrix = correlations(r02=0.9, r03=0.8, r23=0.7, r13=0.5)
    assert pairs(greedy(matrix, 2, 2, 1.0, 1.0)) == {frozenset({0, 2, 3}), frozenset({1})}
    assert pairs(greedy(matrix, 2, 2, 0.5, 1.0)) == {frozenset({0, 2}), frozenset({1, 3})}
    assert pairs(greedy(matrix, 2, 2, 0.0, 1.0)) == {frozenset({0, 2}), frozenset({1, 3})}


def searched(similarity: np.ndarray, units: int, alpha: float, budget: list[int]) -> set[frozenset[int]]:
    """The rules word for word: every pair is looked at anew in each step; a spent budget forbids pairs for ever."""
    groups = {n: frozenset({n}) for n in range(len(similarity))}

    def models_of(key: int) -> set[int]:
        return {n // (len(similarity) // len(budget)) for n in groups[key]}

    while len(groups) > units:
        spent = [{model} for model, left in enumerate(budget) if left <= 0]
        for i in groups:
            for j in groups:
                if models_of(i) == models_of(j) and models_of(i) in spent:
                    similarity[i, j] = -np.inf
        _, i, j = max((similarity[i, j], i, j) for i in groups for j in groups if i < j)
        if models_of(i) == models_of(j) and len(models_of(i)) == 1:
            budget[min(models_of(i))] -= 1
        joined = np.minimum(similarity[i], similarity[j]) * alpha
        similarity[i], similarity[:, i] = joined, joined
        groups[i] |= groups.pop(j)
    return set(groups.values())


@pytest.mark.parametrize(("units", "models", "beta"), [(6, 2, 1.0), (6, 2, 0.4), (4, 3, 0.5), (9, 2, 0.0)])
def test_greedy_equals_a_plain_search_through_all_pairs(units: int, models: int, beta: float) -> None:
    for seed in range(4):
        z = torch.from_numpy(np.random.default_rng(seed).normal(size=(40, units * models)))
        correlation = Moments(z.T @ z, z.sum(0), 40).correlation()
        np.testing.assert_allclose(correlation, np.corrcoef(z.numpy().T), atol=1e-12)
        budget = [int(units * (models - 1) / models * beta)] * models
        expected = searched(correlation.numpy().copy(), units, 0.7, budget)
        assert pairs(greedy(correlation, units, models, 0.7, beta)) == expected


def test_the_weights_of_merged_units_are_averaged_and_their_readers_added_up() -> None:
    """Units 0 of both models are merged, and units 1 and 1; the first model's unit 1 also takes the second's."""
    one = {"up": torch.tensor([[2.0], [4.0]]), "down": torch.tensor([[1.0, 10.0]]), "free": torch.tensor([2.0])}
    other = {"up": torch.tensor([[6.0], [8.0]]), "down": torch.tensor([[3.0, 5.0]]), "free": torch.tensor([4.0])}
    groups = (Permutation("hidden", 2, "down", (("up", 0),), (("down", 1),)),)
    member = torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 1]], dtype=torch.float64)
    merged = zip_models([one, other], groups, {"hidden": member})
    assert merged["free"].tolist() == [3.0]
    assert merged["up"].flatten().tolist() == pytest.approx([2.0, (4 + 6 + 8) / 3])
    # What reads belongs to no group's product: half of each model's columns.
    assert merged["down"].flatten().tolist() == pytest.approx([0.5, (10 + 3 + 5) / 2])


def test_a_permutation_that_changes_the_model_is_refused(tmp_path: Path) -> None:
    wrong = Permuted(Stream, groups=(STREAM[0]._replace(read=()),))
    with pytest.raises(IncompatibleModels, match="change what the model computes"):
        run(zipit, wrong, model(Stream, 0), model(Stream, 1), folder=tmp_path)


def test_three_models_come_to_an_end_where_merges_within_a_model_are_spent() -> None:
    """0-2, 1-4 and 3-5 leave three units that all share a model; two of them still merge, the most similar ones."""
    matrix = torch.eye(6)
    for i, j, value in ((0, 2, 0.9), (1, 4, 0.8), (3, 5, 0.7), (0, 4, 0.3), (2, 4, 0.4), (0, 1, 0.5), (1, 2, 0.6)):
        matrix[i, j] = matrix[j, i] = value
    # {0, 2} and {1, 4}: the smallest of .5, .3, .6 and .4; the others have a 0.
    assert pairs(greedy(matrix, 2, 3, 1.0, 0.0)) == {frozenset({0, 1, 2, 4}), frozenset({3, 5})}
    with pytest.raises(ConfigError, match="leave no pair"):
        greedy(matrix, 2, 3, 0.0, 0.0)


def test_the_share_within_a_model_is_counted_exactly() -> None:
    """.58 of 50 removals is 29, which binary fractions make 28.999…: half of model 0's units go into its other half."""
    matrix = torch.full((200, 200), 0.1).fill_diagonal_(1.0)
    matrix[:100, :100] = 0.9
    merged = pairs(greedy(matrix, 100, 2, 1.0, 0.58))
    assert 100 - len({next(iter(group & set(range(100))), None) for group in merged} - {None}) == 29


def test_rules_that_leave_no_pair_are_refused() -> None:
    """Three models of one unit: with alpha 0 a merged unit may take the third; where nothing correlates, it may too."""
    forbidden = torch.full((4, 4), -torch.inf)
    with pytest.raises(ConfigError, match="leave no pair"):
        greedy(forbidden, 2, 2, 0.3, 0.0)


def test_results_depend_on_the_inputs_alone(tmp_path: Path) -> None:
    models = model(Stream, 0), model(Stream, 1)
    first, _ = run(zipit, FAMILY, *models, folder=tmp_path)
    again, _ = run(zipit, FAMILY, *models, folder=tmp_path)
    assert all(tensor.equal(again.weights[name]) for name, tensor in first.weights.items())
