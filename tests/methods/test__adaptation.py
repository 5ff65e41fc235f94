"""What all adaptations share: the loss that is descended, batches as if some had been taken, memory that is let go."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_concrete import FAMILY, pool_of, tasks_of
from toys import Kept

from fusionbench.merge import Pool
from fusionbench.methods import _deltas
from fusionbench.methods._adaptation import Adaptation
from fusionbench.methods._deltas import MergedModule, Storage
from fusionbench.methods._mapped import MappedTensors, ScratchFiles, release
from fusionbench.weights.safetensors import SafetensorsSource
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


def test_a_batch_held_in_parts_has_the_same_loss_and_gradient(tmp_path: Path) -> None:
    pool = pool_of()
    tasks, context = tasks_of(pool), Kept(tmp_path).context(FAMILY)
    merged = MergedModule(pool, FAMILY)
    merged.put(torch.full((2, 1), 0.3))
    found, sizes = [], []
    merged.module.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    for together in (None, 3):
        adaptation = Adaptation(merged, tasks, context, "test", 7, together=together)
        total = adaptation.descend(adaptation.predictors(), next(adaptation.batches(0)))
        found.append((total, merged.gradient(4)))
    torch.testing.assert_close(found[1], found[0])
    assert sizes == [2, 2, 7, 7, 2, 2, 3, 3, 1, 3, 3, 1]


def test_a_checkpoint_is_seen_without_a_copy_and_never_changed(tmp_path: Path) -> None:
    stored = {"b": torch.arange(5.0).bfloat16(), "w": torch.arange(6.0).view(2, 3), "i": torch.arange(3)}
    save_file(stored, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    source = open_source(tmp_path / "model.safetensors")
    assert isinstance(source, SafetensorsSource)
    seen = MappedTensors(source)
    assert set(seen) == {"b", "w"}
    assert torch.equal(seen["b"], stored["b"])
    seen["w"].add_(1)
    seen.let_go("w")
    assert torch.equal(seen["w"], stored["w"])
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_scratch_tensors_keep_what_is_written_when_memory_is_let_go_and_leave_nothing_behind() -> None:
    scratch = ScratchFiles()
    folder = scratch._folder
    tensor = scratch.empty("w", (3, 5000)).copy_(torch.arange(15000.0).view(3, 5000))
    scratch.let_go("w")
    assert torch.equal(tensor, torch.arange(15000.0).view(3, 5000))
    assert scratch.empty("none", (0, 4)).shape == (0, 4)
    assert folder.is_dir()
    del scratch
    assert not folder.exists()


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_pool_of_files_is_merged_in_its_own_precision_whatever_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: Storage
) -> None:
    pool = pool_of()
    files = {}
    for name, source in {"base": pool.reference, **pool.experts}.items():
        folder = tmp_path / name
        folder.mkdir()
        save_file({key: LazyWeights(source)[key].bfloat16() for key in source.specs}, folder / "model.safetensors")
        (folder / "config.json").write_text('{"model_type": "toy"}')
        files[name] = open_source(folder)
    stored = Pool(files.pop("base"), files, tasks=pool.tasks)
    monkeypatch.setattr(_deltas, "BLOCK", 5)
    merged = MergedModule(stored, FAMILY, storage=storage)
    factors = torch.rand(2, len(merged.names), generator=torch.Generator().manual_seed(0))
    merged.put(factors)
    base, *experts = (LazyWeights(source) for source in (stored.reference, *stored.experts.values()))
    for column, (name, tensor) in enumerate(merged.weights().items()):
        start = base[name].float()
        moved = sum(factors[row, column] * (expert[name].float() - start) for row, expert in enumerate(experts))
        torch.testing.assert_close(tensor, start + moved, atol=1e-6, rtol=1e-6)
    once = {name: tensor.clone() for name, tensor in merged.weights().items()}
    merged.put(factors, exact=True)
    torch.testing.assert_close(dict(merged.weights()), once, atol=1e-7, rtol=0)


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
