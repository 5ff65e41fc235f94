"""Adapters as experts: in recipes, in Python, with the base named or not; without torch."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from adapted import adapt, edit_config, opened, recipe, values
from checkpoints import read_model, save_model
from fusionbench import fuse
from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.merge import merge, open_pool, plan_of_recipe
from fusionbench.suites.model import ModelPool
from fusionbench.suites.opening import open_models
from fusionbench.weights.adapters import AdaptedSource, is_adapter, open_adapter, open_adapter_tensors
from fusionbench.weights.sources import open_source


@pytest.mark.parametrize(("method", "scale"), [("task_arithmetic", 0.3), ("ties", 0.7), ("simple_average", None)])
def test_lora_experts_merge_to_what_their_dense_models_merge_to(two, method, scale):
    extra = [] if scale is None else [f"method.scale={scale}"]
    merge(recipe(two, *extra, method=method), two / "ours")
    merge(recipe(two, *extra, method=method, experts="merged"), two / "dense")
    ours, dense = read_model(two / "ours"), read_model(two / "dense")
    assert set(ours) == set(dense)
    for name, tensor in dense.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=1e-5)
    made = {path.name for path in (two / "ours").iterdir()} - {"README.md", "fusion.lock.json"}
    assert made == {path.name for path in (two / "base").iterdir()}


def test_a_model_and_an_adapter_named_apart_are_one_expert(two):
    apart = [f"experts.e{seed}={{model: {two / 'base'}, adapter: {two / f'adapter{seed}'}}}" for seed in (1, 2)]
    merge(Recipe.load(None, [f"base={two / 'base'}", *apart, "method=task_arithmetic"]), two / "apart")
    merge(recipe(two), two / "bare")
    ours, bare = read_model(two / "apart"), read_model(two / "bare")
    assert all(torch.equal(ours[name], bare[name]) for name in bare)


def test_without_a_base_in_the_recipe_the_model_of_the_adapter_is_the_base(two):
    for seed in (1, 2):
        edit_config(two / f"adapter{seed}", base_model_name_or_path=str(two / "base"))
    merge(recipe(two, "base=null"), two / "without")
    merge(recipe(two), two / "with")
    without, named = read_model(two / "without"), read_model(two / "with")
    assert all(torch.equal(without[name], named[name]) for name in named)


def test_python_takes_adapter_folders(two):
    pool = {"base": two / "base", "e1": two / "adapter1", "e2": two / "adapter2"}
    merge(recipe(two, "method.scale=0.3"), two / "out")
    weights = fuse("task_arithmetic", pool, scale=0.3).weights
    assert all(torch.equal(weights[name], tensor) for name, tensor in read_model(two / "out").items())


def test_the_plan_says_that_changed_tensors_are_wider_than_a_narrow_base(two):
    narrow = {name: tensor.bfloat16() for name, tensor in read_model(two / "base").items()}
    save_model(two / "base", narrow)
    notes = plan_of_recipe(recipe(two), open_pool(recipe(two))).notes
    assert any("14 tensors are F32" in note for note in notes)


TORCH_FREE = """
import sys
from pathlib import Path
from fusionbench.config import Recipe
from fusionbench.merge import merge
merge(Recipe.load(None, sys.argv[2:]), Path(sys.argv[1]))
assert not {"torch", "transformers", "peft"} & set(sys.modules)
"""


def test_adapters_are_merged_without_torch(two):
    experts = [f"experts.e{seed}={two / f'adapter{seed}'}" for seed in (1, 2)]
    arguments = [str(two / "out"), f"base={two / 'base'}", *experts, "method=ties"]
    subprocess.run([sys.executable, "-c", TORCH_FREE, *arguments], check=True)
    assert (two / "out" / "model.safetensors").is_file()


def test_a_folder_with_a_whole_model_beside_the_adapter_is_that_model(two):
    assert is_adapter(two / "adapter1")
    assert not is_adapter(two / "base")
    save_model(two / "adapter1", {"w": torch.ones(1)})
    assert not is_adapter(two / "adapter1")


def test_a_folder_that_lacks_a_part_is_refused(two):
    with pytest.raises(CheckpointError, match=r"is no adapter: it has no adapter_config\.json"):
        open_adapter(two / "base")
    edit_config(two / "adapter1", base_model_name_or_path=None)
    with pytest.raises(ConfigError, match="does not name its model"):
        open_adapter(two / "adapter1")
    (two / "adapter1" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no|no adapter_model\.safetensors"):
        opened(two)
    (two / "adapter1" / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        opened(two)


def test_an_adapter_in_torchs_own_format_is_read_too(two):
    file = two / "adapter1" / "adapter_model.safetensors"
    expected = bytes(opened(two).read("model.layers.0.mlp.up_proj.weight"))
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    assert bytes(opened(two).read("model.layers.0.mlp.up_proj.weight")) == expected


def test_ia3_asks_for_its_space(vectors):
    with pytest.raises(ConfigError, match=r"space=adapter merges the vectors.*space=dense merges the weights"):
        open_pool(recipe(vectors))
    assert isinstance(open_pool(recipe(vectors, "space=dense")).experts["e1"], AdaptedSource)


def test_lora_is_not_merged_in_its_own_space(two):
    with pytest.raises(ConfigError, match=r"adapter1 is a LoRA adapter.*mean of B times the mean of A is not"):
        open_pool(recipe(two, "space=adapter"))


def test_whole_models_have_no_adapter_space(two):
    with pytest.raises(ConfigError, match="no adapters are e1, e2"):
        open_pool(recipe(two, "space=adapter", experts="merged"))


def test_a_pool_of_models_takes_adapters_and_a_multitask_adapter(two):
    base = str(two / "base")
    experts = {"e1": {"model": base, "adapter": str(two / "adapter1")}, "e2": {"model": str(two / "adapter2")}}
    pool = open_models(ModelPool(base=base, experts=experts, mtl=str(two / "adapter2")))
    name = "model.layers.0.mlp.up_proj.weight"
    for source, folder in ((pool.experts["e1"], "merged1"), (pool.experts["e2"], "merged2"), (pool.mtl, "merged2")):
        np.testing.assert_allclose(values(source, name), read_model(two / folder)[name].numpy(), atol=1e-6)


def test_biases_that_peft_saves_three_times_are_read_once(tmp_path):
    config = BertConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8,
    )  # fmt: skip
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["query"], bias="all", task_type="SEQ_CLS")
    expected = adapt(tmp_path, BertForSequenceClassification(config), lora)
    source = open_adapter(tmp_path / "adapter1", open_source(tmp_path / "base"))
    assert set(source.specs) == set(open_source(tmp_path / "base").specs)
    for name in source.specs:
        np.testing.assert_allclose(values(source, name), expected[name].numpy(), atol=1e-6)
    head = [name for name in open_adapter_tensors(tmp_path / "adapter1").specs if "classifier" in name]
    assert sorted(head) == ["base_model.model.classifier.bias", "base_model.model.classifier.weight"]
