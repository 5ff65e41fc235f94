"""(IA)³ vectors merge around ones into an adapter again."""

import warnings

import pytest
import torch
from peft import IA3Config, PeftModel
from safetensors.torch import load_file, save_file

from adapted import adapt, gpt2, llama, recipe
from checkpoints import read_model
from fusionbench.errors import ConfigError
from fusionbench.merge import merge, open_pool


def test_ia3_vectors_are_merged_around_ones_into_an_adapter_that_peft_loads(vectors):
    merge(recipe(vectors, "space=adapter", "method.scale=0.5"), vectors / "out")
    one, two = (load_file(vectors / f"adapter{seed}" / "adapter_model.safetensors") for seed in (1, 2))
    merged = load_file(vectors / "out" / "adapter_model.safetensors")
    assert set(merged) == set(one)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, 1 + 0.5 * (one[name] - 1 + two[name] - 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(gpt2(), vectors / "out")
    loaded = {name.replace(".default", ""): tensor for name, tensor in model.state_dict().items() if "ia3_l" in name}
    assert set(loaded) == set(merged)
    assert all(torch.equal(loaded[name], merged[name]) for name in merged)


def test_ia3_vectors_of_any_float_kind_begin_at_one(vectors):
    file = vectors / "adapter1" / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file)
    merge(recipe(vectors, "space=adapter", "method.scale=0"), vectors / "out")
    merged = load_file(vectors / "out" / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.bfloat16 and bool((tensor == 1).all()) for tensor in merged.values())


def test_what_an_ia3_adapter_holds_whole_begins_as_the_models(tmp_path):
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[], modules_to_save=["lm_head"])
    for seed in (1, 2):
        adapt(tmp_path, llama(), config, seed)
    merge(recipe(tmp_path, "space=adapter", "method.scale=0"), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert torch.equal(merged["base_model.model.lm_head.weight"], read_model(tmp_path / "base")["lm_head.weight"])
    with pytest.raises(ConfigError, match=r"lm_head\.weight whole. Name the pretrained model"):
        open_pool(recipe(tmp_path, "space=adapter", "base=null"))
