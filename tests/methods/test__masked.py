"""Masks as bits, models made of them, and what is written of them."""

import json
from pathlib import Path

import pytest
import torch
from masking import CONFIG, FAMILY, V5, pool_of, run
from matrices import draw
from safetensors.torch import load_file

from fusionbench.errors import CheckpointError
from fusionbench.methods._masked import MaskedModels, load_masks, pack, unpack
from fusionbench.methods.emr import emr
from fusionbench.mixing import Skipped
from fusionbench.weights.tensors import TensorSource


@pytest.mark.parametrize("shape", [(), (0, 3), (8,), (3, 5), (2, 3, 4)], ids=str)
def test_masks_are_packed_eight_to_a_byte_and_unpacked_as_they_were(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    bits = pack(mask)
    assert (bits.dtype, len(bits)) == (torch.uint8, -(-mask.numel() // 8))
    assert unpack(bits, shape).equal(mask)


def test_the_first_entry_is_the_highest_bit() -> None:
    assert pack(torch.tensor([True, False, False, False, False, False, True, False, True])).tolist() == [130, 128]


def test_what_is_written_is_what_is_read_and_its_size_is_what_is_reported(tmp_path: Path) -> None:
    base, experts = draw(3)
    fused, _ = run(emr, base, experts, tmp_path)
    fused.save(tmp_path / "made")
    pool = pool_of(base, experts)
    found = MaskedModels(load_masks(tmp_path / "made", pool.base), pool, FAMILY, method=None)
    for expert in experts:
        assert all(weight.equal(fused.weights(expert)[n]) for n, weight in found.weights(expert).items())
    stored = load_file(tmp_path / "made" / "model.safetensors")
    on_disk = sum(t.numel() * t.element_size() for t in stored.values())
    entries = sum(t.numel() for t in base.values())
    # 6·9, 11·4, 8·8 and 11 entries: 7 + 6 + 8 + 2 bytes of bits each.
    assert on_disk == 4 * entries + 3 * 23
    assert fused.bytes == on_disk + 3 * 8 + 4 * entries
    assert fused.parameters == 2 * entries


def test_the_folder_says_whose_masks_they_are(tmp_path: Path) -> None:
    fused, _ = run(emr, *V5, tmp_path)
    fused.save(tmp_path / "made")
    about = json.loads((tmp_path / "made" / "per_task.json").read_text())
    assert about["experts"]["a"] == {"task": "a", "scale": fused.masks.scales["a"]}


def test_masks_over_another_base_or_of_no_folder_are_refused(tmp_path: Path) -> None:
    fused, _ = run(emr, *V5, tmp_path)
    fused.save(tmp_path / "made")
    with pytest.raises(CheckpointError, match="another base than wrong"):
        load_masks(tmp_path / "made", TensorSource("wrong", {"w": torch.ones(5)}, CONFIG))
    with pytest.raises(CheckpointError, match="holds no masked models"):
        load_masks(tmp_path, TensorSource("base", {"w": torch.ones(5)}, CONFIG))


def test_models_keep_the_kind_of_number_of_the_base(tmp_path: Path) -> None:
    base = {"w": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}
    fused, _ = run(emr, base, {"a": {"w": torch.tensor([1.5, 2.0], dtype=torch.bfloat16)}}, tmp_path)
    assert fused.weights("a")["w"].dtype == torch.bfloat16
    assert fused.weights("a")["w"].tolist() == [1.5, 2.0]


def test_statistics_of_batch_normalisation_stay_the_experts_own(tmp_path: Path) -> None:
    def model(value: float) -> dict[str, torch.Tensor]:
        moments = {"bn.running_mean": torch.full((2,), value), "bn.running_var": torch.full((2,), value + 1)}
        return {"bn.weight": torch.full((2,), value), "bn.bias": torch.zeros(2), **moments}

    fused, _ = run(emr, model(1.0), {"a": model(2.0), "b": model(5.0)}, tmp_path)
    fused.save(tmp_path / "made")
    assert set(fused.masks.unified) == {"bn.weight", "bn.bias"}
    assert fused.weights("b")["bn.running_var"].tolist() == [6, 6]
    assert load_masks(tmp_path / "made", pool_of(model(1.0), {}).base).own["a"]["bn.running_mean"].tolist() == [2, 2]


def test_a_task_of_no_expert_is_skipped(tmp_path: Path) -> None:
    class Other:
        name = "other"

    fused, _ = run(emr, *V5, tmp_path)
    with pytest.raises(Skipped, match="other has no model of its own"):
        fused.for_task(Other())  # type: ignore[arg-type]


def test_one_tasks_model_is_written_as_a_model_of_its_own(tmp_path: Path) -> None:
    fused, _ = run(emr, *V5, tmp_path)
    fused.save_task("a", tmp_path / "a")
    assert load_file(tmp_path / "a" / "model.safetensors")["w"].equal(fused.weights("a")["w"])
    assert json.loads((tmp_path / "a" / "config.json").read_text()) == CONFIG
