"""An adapter on a base is the model that PEFT itself makes of the two, however it is read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from adapted import CASES, IA3_CASES, adapt, edit_config, llama, opened, recipe, values
from checkpoints import save_model
from fusionbench.errors import NotFinite
from fusionbench.families import family_named
from fusionbench.merge import merge
from fusionbench.mixing import FusedWeights
from fusionbench.weights.adapters import open_adapter
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights


@pytest.mark.parametrize("case", [*CASES, *IA3_CASES])
@pytest.mark.parametrize("tile", [1 << 17, 37], ids=["one panel", "many panels"])
def test_base_and_adapter_are_what_peft_makes_of_them(tmp_path, monkeypatch, case, tile):
    monkeypatch.setattr("fusionbench.weights.adapters.dense.TILE", tile)
    make, config = (CASES | IA3_CASES)[case]
    expected = adapt(tmp_path, make(), config)
    source = opened(tmp_path, "dense")
    base = open_source(tmp_path / "base")
    assert set(source.specs) == set(base.specs)
    changed = {name for name in source.specs if not np.array_equal(values(source, name), values(base, name))}
    assert changed
    for name in source.specs:
        np.testing.assert_allclose(values(source, name), expected[name].numpy(), atol=1e-6, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", ["lora", "dora of conv1d", "convolutions"])
def test_values_do_not_depend_on_how_a_tensor_is_cut(tmp_path, monkeypatch, case):
    monkeypatch.setattr("fusionbench.weights.adapters.dense.TILE", 37)
    adapt(tmp_path, CASES[case][0](), CASES[case][1])
    source, other = opened(tmp_path), opened(tmp_path)
    for name, spec in source.specs.items():
        whole = bytes(source.read(name))
        for step in (1 + spec.size // 3, 29):
            places = range(0, spec.size, step)
            parts = {start: bytes(other.read(name, start, min(start + step, spec.size))) for start in reversed(places)}
            assert b"".join(parts[start] for start in places) == whole


def one_rank(folder: Path, weight: torch.Tensor) -> None:
    """Save a base of two equal matrices and an adapter that adds 3·(1, 2)ᵀ·(2⁻¹⁰, 0) to the first."""
    save_model(folder / "base", {"w.weight": weight, "n.weight": weight.clone()})
    factors = {"A": torch.tensor([[2.0**-10, 0.0]]), "B": torch.tensor([[1.0], [2.0]])}
    (folder / "adapter").mkdir()
    named = {f"base_model.model.w.lora_{factor}.weight": tensor for factor, tensor in factors.items()}
    save_file(named, folder / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 3}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))


def test_what_is_added_to_bfloat16_is_not_rounded_to_it(tmp_path):
    one_rank(tmp_path, torch.tensor([[1.0, 2.0], [4.0, 8.0]], dtype=torch.bfloat16))
    source = open_adapter(tmp_path / "adapter", open_source(tmp_path / "base"))
    assert (source.specs["w.weight"].dtype, source.specs["n.weight"].dtype) == ("F32", "BF16")
    np.testing.assert_array_equal(values(source, "w.weight"), np.float32([[1 + 3 / 1024, 2.0], [4 + 6 / 1024, 8.0]]))


def test_fingerprints_tell_adapters_and_their_scales_apart(two):
    marks = {opened(two).fingerprint(), opened(two, seed=2).fingerprint(), open_source(two / "base").fingerprint()}
    edit_config(two / "adapter1", lora_alpha=99)
    assert len(marks | {opened(two).fingerprint()}) == 4
    edit_config(two / "adapter1", base_model_name_or_path="elsewhere", lora_alpha=8)
    assert opened(two).fingerprint() in marks


def test_a_nan_in_an_adapter_is_found_and_named(two):
    file = two / "adapter2" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"][0, 0] = torch.nan
    save_file(tensors, file)
    with pytest.raises(NotFinite, match=r"adapter2.*q_proj|q_proj.*adapter2"):
        merge(recipe(two), two / "out")
    assert not (two / "out").exists()


@pytest.mark.parametrize(("kind", "declared"), [(torch.float64, "F64"), (torch.float8_e4m3fn, "F32")])
def test_a_base_of_any_float_kind_takes_an_adapter(tmp_path, kind, declared):
    one_rank(tmp_path, torch.tensor([[1.0, 2.0], [4.0, 8.0]]).to(kind))
    source = open_adapter(tmp_path / "adapter", open_source(tmp_path / "base"))
    assert source.specs["w.weight"].dtype == declared
    np.testing.assert_array_equal(values(source, "w.weight"), [[1 + 3 / 1024, 2.0], [4 + 6 / 1024, 8.0]])


def test_a_lora_on_a_bfloat16_base_is_run_in_bfloat16(tmp_path):
    base = llama().bfloat16()
    adapt(tmp_path, base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    family, source = family_named("causal_lm"), open_source(tmp_path / "base")
    fused = FusedWeights(LazyWeights(opened(tmp_path)), family, source)
    merged = FusedWeights(LazyWeights(open_source(tmp_path / "merged1")), family, source)
    batch = family.collate([{"input_ids": [1, 2, 3]}])
    with torch.no_grad():
        ours, theirs = family.features(fused.module, batch), family.features(merged.module, batch)
    assert ours.dtype is torch.bfloat16
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)
