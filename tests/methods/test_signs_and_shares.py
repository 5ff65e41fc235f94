"""Task arithmetic with signs, and TIES' variants of trimming and electing: negation, analogy, random k, votes."""

import pytest
import torch
from arrays import call

from fusing import fuse
from fusionbench.methods.task_arithmetic import task_arithmetic
from fusionbench.methods.ties import ties

BASE = [1.0, 2.0, 3.0]
A, B, C = [2.0, 2.0, 3.0], [1.0, 4.0, 3.0], [1.0, 2.0, 7.0]


def test_a_negated_task_is_forgotten_and_comes_back_with_the_other_sign() -> None:
    assert call(task_arithmetic, BASE, [A], weights=-1.0, scale=1.0).tolist() == [0, 2, 3]
    assert call(task_arithmetic, BASE, [A], scale=-0.5).tolist() == [0.5, 2, 3]
    forgotten = call(task_arithmetic, BASE, [A], weights=-1.0, scale=1.0)
    assert call(task_arithmetic, forgotten, [forgotten + torch.tensor([1.0, 0, 0])], scale=1.0).tolist() == BASE


def test_an_analogy_adds_two_tasks_and_takes_the_third_away() -> None:
    """A is to C as the result is to B: θ₀ + λ·(τ_A + τ_B − τ_C)."""
    assert call(task_arithmetic, BASE, [A, B, C], weights=[1.0, 1.0, -1.0], scale=1.0).tolist() == [2, 4, -1]
    assert call(task_arithmetic, BASE, [A, B, C], weights=[1.0, 1.0, -1.0], scale=0.5).tolist() == [1.5, 3, 1]


def test_an_analogy_of_equal_tasks_is_the_other_task() -> None:
    assert call(task_arithmetic, BASE, [A, B, A], weights=[1.0, 1.0, -1.0], scale=1.0).tolist() == B


MODEL = {"first": torch.zeros(60), "second": torch.zeros(8, 5)}
ONES = {name: torch.ones_like(tensor) for name, tensor in MODEL.items()}
RANDOM = {"density": 0.29, "trim": "random", "combine": "sum"}


def kept(seed: int, **run: int) -> torch.Tensor:
    merged = fuse("ties", MODEL, {"x": ONES}, RANDOM, seed=seed, run=run)
    return torch.cat([tensor.flatten() for tensor in merged.values()])


def test_random_trimming_keeps_exactly_the_share_of_the_model_as_it_is() -> None:
    for seed in range(5):
        found = kept(seed)
        assert found.sum() == 29
        assert set(found.tolist()) == {0.0, 1.0}


def test_random_trimming_depends_on_the_seed_alone() -> None:
    assert torch.equal(kept(3), kept(3, threads=2))
    assert not torch.equal(kept(3), kept(4))


def test_random_trimming_takes_places_evenly() -> None:
    shares = torch.stack([kept(seed) for seed in range(200)]).mean(0)
    assert float((shares - 0.29).abs().max()) < 0.16  # five standard errors


def test_random_trimming_draws_for_each_expert_anew() -> None:
    merged = fuse("ties", MODEL, {"x": ONES, "y": ONES}, RANDOM, seed=0)
    total = torch.cat([tensor.flatten() for tensor in merged.values()])
    assert total.sum() == 58
    assert set(total.tolist()) == {0.0, 1.0, 2.0}


def test_votes_are_weighted_or_not() -> None:
    """Weighted: 3·1 against 1·(−2) elects plus; unweighted: 1 − 2 elects minus."""
    experts, weights = [[1.0], [-2.0]], [3.0, 1.0]
    assert call(ties, [0.0], experts, density=1.0, weights=weights, combine="sum").tolist() == [3.0]
    unweighted = call(ties, [0.0], experts, density=1.0, weights=weights, combine="sum", elect_on="unweighted")
    assert unweighted.tolist() == [-2.0]


@pytest.mark.parametrize(("combine", "expected"), [("mean", 2.0), ("sum", 4.0), ("max", 3.0)])
def test_what_agrees_is_averaged_added_or_the_largest_taken(combine: str, expected: float) -> None:
    assert call(ties, [0.0], [[1.0], [3.0], [-2.0]], density=1.0, combine=combine).tolist() == [expected]
