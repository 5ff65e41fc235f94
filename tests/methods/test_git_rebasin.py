"""Git Re-Basin: shuffled units are found again, nothing is merged that a permutation changed, and what is left open."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from permuting import CHANNELS, STREAM, Convolved, Inputs, Permuted, Stream, model, pool_of, run
from toys import Kept, Toy

from fusionbench.errors import ConfigError, IncompatibleModels, MissingPart
from fusionbench.families import Permutation
from fusionbench.methods._matching import match_weights, total_similarity
from fusionbench.methods._permutations import check_unchanged, permuted, reordered
from fusionbench.methods._statistics import SharedModule
from fusionbench.methods.git_rebasin import git_rebasin

FAMILY = Permuted(Stream)
CONVOLVED = Permuted(Convolved, groups=CHANNELS)


def shuffled(tensors: dict[str, torch.Tensor], groups: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(seed)
    orders = {group.name: torch.from_numpy(random.permutation(group.units)) for group in groups}
    assert any(not torch.equal(order, torch.arange(len(order))) for order in orders.values())
    return permuted(tensors, groups, orders)


def assert_same(found: Any, expected: Any) -> None:
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_the_worked_example(tmp_path: Path) -> None:
    """Rows of the first map and columns of the second swapped: the swap is found, the mean is the first model."""
    one = {"up.weight": torch.tensor([[1.0, 2], [3, 4]]), "down.weight": torch.tensor([[5.0, 6]])}
    other = {"up.weight": torch.tensor([[3.0, 4], [1, 2]]), "down.weight": torch.tensor([[6.0, 5]])}
    groups = (Permutation("hidden", 2, "down", (("up.weight", 0),), (("down.weight", 1),)),)
    orders = match_weights(one, other, groups, random=np.random.default_rng(0), sweeps=100)
    assert orders["hidden"].tolist() == [1, 0]
    assert_same(permuted(other, groups, orders), one)


@pytest.mark.parametrize("match", ["weights", "activations"])
def test_a_model_in_another_order_is_found_again(match: str, tmp_path: Path) -> None:
    one = model(Stream, 0)
    fused, kept = run(git_rebasin, FAMILY, one, shuffled(one, STREAM), folder=tmp_path, match=match)
    assert_same(fused.weights, one)
    assert ("adapted" in kept.used) == (match == "activations")


def test_heads_move_as_blocks_and_channels_with_their_cells() -> None:
    rows = torch.arange(6.0)
    assert reordered(rows, 0, torch.tensor([2, 0, 1])).tolist() == [4, 5, 0, 1, 2, 3]
    assert reordered(rows.view(1, 6), 1, torch.tensor([1, 0])).tolist() == [[3, 4, 5, 0, 1, 2]]


@pytest.mark.parametrize("match", ["weights", "activations"])
def test_channels_bring_their_statistics_and_these_are_taken_anew(match: str, tmp_path: Path) -> None:
    one = model(Convolved, 0)
    fused, _ = run(git_rebasin, CONVOLVED, one, shuffled(one, CHANNELS), folder=tmp_path, match=match)
    statistics = {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
    assert_same({n: t for n, t in fused.weights.items() if n not in statistics}, one)
    # By definition: the mean over batches of 32 of what the convolution gives.
    batches = [b["points"] for b in Inputs().batches("train", size=32, limit=256, labels=False)]
    given = [torch.nn.functional.conv1d(b.unsqueeze(1), one["conv.weight"], one["conv.bias"]) for b in batches]
    mean = torch.stack([channels.mean((0, 2)) for channels in given]).mean(0)
    variance = torch.stack([channels.var((0, 2)) for channels in given]).mean(0)
    torch.testing.assert_close(fused.weights["bn.running_mean"], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused.weights["bn.running_var"], variance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_one_group_gets_the_best_of_all_orders(seed: int) -> None:
    one, other = model(Stream, seed), model(Stream, seed + 10)
    hidden = (STREAM[0]._replace(units=6, produced=STREAM[0].produced, read=STREAM[0].read),)
    orders = match_weights(one, other, hidden, random=np.random.default_rng(0), sweeps=5)
    tried = [
        total_similarity(one, permuted(other, hidden, {"hidden": torch.tensor(order)}), hidden)
        for order in itertools.permutations(range(6))
    ]
    found = total_similarity(one, permuted(other, hidden, orders), hidden)
    assert found == pytest.approx(max(tried))


def test_similarity_never_falls_below_that_of_the_given_order() -> None:
    for seed in range(5):
        one, other = model(Stream, seed), model(Stream, seed + 50)
        orders = match_weights(one, other, STREAM, random=np.random.default_rng(seed), sweeps=100)
        found = total_similarity(one, permuted(other, STREAM, orders), STREAM)
        assert found > total_similarity(one, other, STREAM)


@pytest.mark.parametrize("seed", range(1, 8))
def test_rows_and_columns_of_one_group_are_found_again_and_never_end_less_alike(seed: int) -> None:
    """Both axes of a square map move together, so that one axis's best assignment can lose more by the other."""
    random = torch.Generator().manual_seed(seed)
    group = Permutation("hidden", 7, "square", (("up", 0), ("square", 0)), (("square", 1), ("down", 1)))
    one, other = (
        {n: torch.randn(s, generator=random) for n, s in {"up": (7, 4), "square": (7, 7), "down": (3, 7)}.items()}
        for _ in range(2)
    )
    for given in (other, permuted(one, (group,), {"hidden": torch.randperm(7, generator=random)})):
        orders = match_weights(one, given, (group,), random=np.random.default_rng(0), sweeps=100)
        reached = total_similarity(one, permuted(given, (group,), orders), (group,))
        assert reached >= total_similarity(one, given, (group,)) - 1e-6
    assert_same(permuted(given, (group,), orders), one)


def test_a_small_change_of_what_a_model_computes_is_refused_and_so_is_nothing_at_all() -> None:
    """Shares of the largest output: .001 is a change, and NaN is no answer."""
    one = model(Stream, 0)
    pool = pool_of(one)
    shared = SharedModule(pool, FAMILY, torch.device("cpu"))
    batch = next(Inputs().batches("train", size=4, limit=4, labels=False))
    check_unchanged(shared, FAMILY, one, {name: tensor.clone() for name, tensor in one.items()}, batch)
    for factor in (1.001, float("nan")):
        with pytest.raises(IncompatibleModels, match="nothing was merged"):
            check_unchanged(shared, FAMILY, one, {name: tensor * factor for name, tensor in one.items()}, batch)


def test_weights_are_a_mean_and_one_sweep_is_less_than_many(tmp_path: Path) -> None:
    one = model(Stream, 0)
    other = {name: tensor + 1 for name, tensor in one.items()}
    fused, _ = run(git_rebasin, FAMILY, one, other, folder=tmp_path, match="activations", weights=[3.0, 1.0])
    moved = fused.weights["last.bias"] - one["last.bias"]
    torch.testing.assert_close(moved, torch.full((2,), 0.25))


@pytest.mark.parametrize("align", ["first", "mean"])
def test_three_models_are_brought_to_one_order(align: str, tmp_path: Path) -> None:
    one = model(Stream, 0)
    others = [shuffled(one, STREAM, seed) for seed in (1, 2)]
    fused, kept = run(git_rebasin, FAMILY, one, *others, folder=tmp_path, align=align, restarts=4)
    groups = total_similarity(one, one, STREAM)
    assert total_similarity(dict(fused.weights), dict(fused.weights), STREAM) == pytest.approx(groups, rel=1e-4)
    assert "m1" in kept.notes[0]
    assert "m2" in kept.notes[0]


def test_a_permutation_that_changes_the_model_is_refused(tmp_path: Path) -> None:
    wrong = Permuted(Stream, groups=(STREAM[0]._replace(read=()),))
    with pytest.raises(IncompatibleModels, match=r"change what the model computes.*nothing was merged"):
        run(git_rebasin, wrong, model(Stream, 0), model(Stream, 1), folder=tmp_path)


def test_axes_that_the_units_do_not_divide_are_refused(tmp_path: Path) -> None:
    wrong = Permuted(Stream, groups=(STREAM[0]._replace(units=4),))
    with pytest.raises(IncompatibleModels, match=r"axis 0 of up\.weight \[6, 4\] holds no 4 units"):
        run(git_rebasin, wrong, model(Stream, 0), model(Stream, 1), folder=tmp_path)
    lacking = Permuted(Stream, groups=(STREAM[0]._replace(produced=(("nothing", 0),)),))
    with pytest.raises(IncompatibleModels, match="axis 0 of nothing"):
        run(git_rebasin, lacking, model(Stream, 0), model(Stream, 1), folder=tmp_path)


def test_a_family_without_permutations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match=r"no permutations of units \(git_rebasin"):
        run(git_rebasin, Toy(Stream), model(Stream, 0), model(Stream, 1), folder=tmp_path)  # type: ignore[arg-type]


def test_the_self_check_needs_inputs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checks on a few inputs"):
        git_rebasin(pool_of(model(Stream, 0)), {}, Kept(tmp_path).context(FAMILY))
