"""What all adaptations share: the loss that is descended, batches as if some had been taken, memory that is let go."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from test_concrete import FAMILY, pool_of, tasks_of
from toys import Kept

from fusionbench.methods._adaptation import Adaptation
from fusionbench.methods._deltas import MergedModule, release
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights


def test_the_loss_is_a_sum_over_tasks_and_its_gradient_counts_batches_that_run_as_one(tmp_path: Path) -> None:
    pool = pool_of()
    tasks, context = tasks_of(pool), Kept(tmp_path).context(FAMILY)
    found = []
    for weight in (1, 3):
        merged = MergedModule(pool, FAMILY)
        merged.put(torch.full((2, 1), 0.3))
        adaptation = Adaptation(merged, tasks, context, "test", 4, weight)
        drawn = next(adaptation.batches(0))
        total = adaptation.descend(adaptation.predictors(), drawn)
        found.append((total, merged.gradient(4)))
        alone = sum(task.objective(task.bind(merged.module), drawn[name]) for name, task in tasks.items())
        torch.testing.assert_close(total, alone.detach())
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(3 * found[0][1], found[1][1])


def test_batches_go_on_as_if_some_had_been_taken(tmp_path: Path) -> None:
    pool = pool_of()
    adaptation = Adaptation(MergedModule(pool, FAMILY), tasks_of(pool), Kept(tmp_path).context(FAMILY), "test", 4)
    plain, later = adaptation.batches(0), adaptation.batches(4)
    pairs = [pair for pair, _ in zip(adaptation.pairs(0), range(3), strict=False)]
    taken = [next(plain) for _ in range(6)]
    assert torch.equal(next(later)["e1"]["points"], taken[4]["e1"]["points"])
    assert all(torch.equal(pairs[2][i]["e0"]["points"], taken[4 + i]["e0"]["points"]) for i in range(2))


def test_a_mapped_checkpoint_reads_the_same_after_its_memory_was_let_go(tmp_path: Path) -> None:
    save_file({"w": torch.arange(5000.0)}, tmp_path / "model.safetensors")
    source = open_source(tmp_path / "model.safetensors")
    before = LazyWeights(source)["w"].clone()
    release(source)
    assert torch.equal(LazyWeights(source)["w"], before)
