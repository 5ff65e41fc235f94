"""Write what mergekit makes of whole recipes: gradients, filters, slices, data types, on a tiny Llama of four layers.

Run by an interpreter that has mergekit 0.1.5: ``python make_mergekit_recipe_goldens.py``. Writes
``golden/mergekit_recipes/inputs.safetensors`` (``<model>/<tensor>``, metadata ``config``: the models' config.json) and
``outputs.safetensors`` (``<recipe>/<tensor>``, metadata ``recipes``: name -> YAML text). Models in a recipe are the
folders base, a, b, c of the working directory.
"""

# ruff: noqa: T201

from __future__ import annotations

import contextlib
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml
from golden_inputs import GOLDEN, MODELS, save_golden
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

SEED = 20240602
RECIPES = {
    "linear_gradient": """
merge_method: linear
base_model: a
models:
  - {model: a, parameters: {weight: [1.0, 0.2]}}
  - {model: b, parameters: {weight: [{filter: mlp, value: [0.1, 0.9, 0.5]}, {value: 0.6}]}}
dtype: float32
""",
    "ties_filters": """
merge_method: ties
base_model: base
models:
  - {model: a, parameters: {weight: 1.0, density: 0.5}}
  - {model: b, parameters: {weight: 1.0, density: [1, 0.7, 0.1]}}
  - model: c
    parameters:
      density: 0.33
      weight: [{filter: mlp, value: 0.5}, {value: 0}]
parameters: {normalize: true, int8_mask: true}
dtype: float32
""",
    "task_arithmetic_precedence": """
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: [{filter: q_proj, value: 0.9}]}}
  - {model: b}
parameters:
  weight: [{filter: self_attn, value: [0.2, 0.4]}, {value: 0.5}]
  lambda: [{filter: down_proj, value: 0.5}, {value: 1.5}]
dtype: float32
out_dtype: bfloat16
""",
    "breadcrumbs_gamma": """
merge_method: breadcrumbs
base_model: base
models:
  - {model: a, parameters: {weight: 0.7, density: 0.6, gamma: 0.05}}
  - {model: c, parameters: {weight: 0.4, density: [0.9, 0.3], gamma: 0.02}}
dtype: float32
""",
    "task_arithmetic_bf16": """
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: 0.7}}
  - {model: c, parameters: {weight: 0.4}}
dtype: bfloat16
""",
    "slerp_slices": """
merge_method: slerp
base_model: a
slices:
  - sources:
      - {model: a, layer_range: [0, 4]}
      - {model: b, layer_range: [0, 4]}
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - {value: 0.5}
dtype: float32
""",
    "passthrough_stack": """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [1, 4], parameters: {scale: [{filter: o_proj, value: 0.0}, {value: 1.0}]}}]
dtype: float32
""",
}


def config() -> LlamaConfig:
    """The architecture of all models."""
    return LlamaConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=16,
        max_position_embeddings=32,
        tie_word_embeddings=False,
    )


def write_models(folder: Path) -> tuple[dict[str, Tensor], str]:
    """Save base, a, b, c; return their tensors under prefixed names, and config.json."""
    random = np.random.default_rng(SEED)
    model = LlamaForCausalLM(config())
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    origin = {name: random.normal(0, 0.3, shape) for name, shape in shapes.items()}
    flat = {}
    for kind in MODELS:
        state = {}
        for name, array in origin.items():
            delta = 0 if kind == "base" else random.normal(0, 0.05, array.shape)
            state[name] = torch.tensor(array + delta, dtype=torch.float32)
        model.load_state_dict(state)
        model.save_pretrained(folder / kind)
        flat |= {f"{kind}/{name}": tensor for name, tensor in load_file(folder / kind / "model.safetensors").items()}
    return flat, (folder / "base" / "config.json").read_text()


def main() -> None:
    """Write the inputs, run each recipe, write the outputs."""
    torch.set_num_threads(1)
    folder = GOLDEN / "mergekit_recipes"
    folder.mkdir(parents=True, exist_ok=True)
    versions = {"peer": "mergekit", "version": version("mergekit"), "transformers": version("transformers")}
    outputs = {}
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        flat, text = write_models(Path())
        save_golden(folder / "inputs.safetensors", flat, versions | {"config": text, "seed": str(SEED)})
        for name, recipe in RECIPES.items():
            parsed = MergeConfiguration.model_validate(yaml.safe_load(recipe))
            run_merge(parsed, name, MergeOptions(quiet=True, write_model_card=False, copy_tokenizer=False))
            result = load_file(Path(name) / "model.safetensors")
            outputs |= {f"{name}/{key}": tensor for key, tensor in result.items()}
    save_golden(folder / "outputs.safetensors", outputs, versions | {"recipes": json.dumps(RECIPES)})
    for path in sorted(folder.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
