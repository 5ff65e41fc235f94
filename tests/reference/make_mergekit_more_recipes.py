"""Write what mergekit makes of further whole recipes: every kind of its examples, stages, and models of several parts.

Run by an interpreter that has mergekit 0.1.5: ``python make_mergekit_more_recipes.py``, after
``make_mergekit_recipe_goldens.py``, whose tiny Llamas it takes. Writes ``golden/mergekit_recipes/more.safetensors``
(``<recipe>/<tensor>``, metadata ``recipes``: name -> YAML text) and ``t5.safetensors`` (``inputs/<model>/<tensor>`` and
``outputs/<recipe>/<tensor>``, metadata ``config`` and ``recipes``). Methods that draw keep everything here (density 1):
their masks are of another generator, and are compared case by case by ``make_mergekit_goldens.py``.
"""

# ruff: noqa: T201

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
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
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

SEED = 20261122
THREE = "models: [{model: a}, {model: b}, {model: c}]\ndtype: float32\n"
WEIGHED = "models:\n  - {model: a, parameters: {weight: 0.5}}\n  - {model: b, parameters: {weight: [0.2, 0.6]}}\n"
RECIPES = {
    "dare_ties": f"merge_method: dare_ties\nbase_model: base\n{WEIGHED}dtype: float32\n",
    "dare_linear": f"merge_method: dare_linear\nbase_model: base\n{WEIGHED}"
    "parameters: {normalize: true, lambda: 0.7}\ndtype: float32\n",
    "della": f"merge_method: della\nbase_model: base\n{WEIGHED}parameters: {{epsilon: 0.05}}\ndtype: float32\n",
    "della_linear": f"merge_method: della_linear\nbase_model: base\n{WEIGHED}"
    "parameters: {lambda: 1.1}\ndtype: float32\n",
    "breadcrumbs_ties": f"merge_method: breadcrumbs_ties\nbase_model: base\n{WEIGHED}"
    "parameters: {density: 0.6, gamma: 0.05, rescale: true}\ndtype: float32\n",
    "ties_rescale": f"merge_method: ties\nbase_model: base\n{WEIGHED}"
    "parameters: {density: 0.4, rescale: true, normalize: false, lambda: 0.8}\ndtype: float32\n",
    "ties_rescale_one_entry": f"merge_method: ties\nbase_model: base\n{WEIGHED}"
    "parameters: {density: 0.01, rescale: true}\ndtype: float32\n",
    "model_stock": f"merge_method: model_stock\nbase_model: base\n{THREE}",
    "model_stock_rows": f"merge_method: model_stock\nbase_model: base\n{THREE}parameters: {{filter_wise: true}}\n",
    "sce": f"merge_method: sce\nbase_model: base\n{THREE}parameters: {{select_topk: 0.3}}\n",
    "karcher": f"merge_method: karcher\n{THREE}parameters: {{max_iter: 8, tol: 1e-7}}\n",
    "multislerp": f"merge_method: multislerp\n{WEIGHED}  - {{model: c, parameters: {{weight: 0.3}}}}\ndtype: float32\n",
    "nuslerp": f"merge_method: nuslerp\n{WEIGHED}parameters: {{nuslerp_flatten: false}}\ndtype: float32\n",
    "nuslerp_deltas": f"merge_method: nuslerp\nbase_model: base\n{WEIGHED}dtype: float32\n",
    "nearswap": "merge_method: nearswap\nbase_model: base\nmodels: [{model: a}]\n"
    "parameters: {t: 0.02}\ndtype: float32\n",
    "arcee_fusion": "merge_method: arcee_fusion\nbase_model: base\nmodels: [{model: b}]\ndtype: float64\n",
    "ram": f"merge_method: ram\nbase_model: base\n{THREE}parameters: {{epsilon: 0.04}}\n",
    "ramplus_tl": f"merge_method: ramplus_tl\nbase_model: base\n{THREE}"
    "parameters: {epsilon: 0.06, r: 0.3, alpha: 0.9}\n",
    "slerp_models": "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: c}]\n"
    "parameters: {t: [{filter: norm, value: 1}, {value: [0.1, 0.9]}]}\ndtype: float32\n",
}
STAGES = """
name: first
merge_method: linear
models: [{model: a, parameters: {weight: 0.7}}, {model: b, parameters: {weight: 0.3}}]
dtype: float32
---
name: second
merge_method: slerp
base_model: first
models: [{model: first}, {model: c}]
parameters: {t: 0.4}
dtype: float32
---
merge_method: task_arithmetic
base_model: base
models: [{model: first, parameters: {weight: 0.5}}, {model: second, parameters: {weight: 0.25}}]
dtype: float32
"""
T5 = {
    "parts": """
merge_method: ties
base_model: t5/base
modules:
  encoder:
    models:
      - {model: t5/a, parameters: {weight: 0.8, density: 0.5}}
      - {model: t5/b, parameters: {weight: [0.3, 0.9]}}
    parameters: {density: 0.7, lambda: 0.5}
  decoder:
    models:
      - {model: t5/a, parameters: {weight: [{filter: EncDecAttention, value: 0.1}, {value: [1, 0]}]}}
      - {model: t5/b, parameters: {weight: 0.6}}
  shared:
    models: [{model: t5/a}, {model: t5/b}]
    parameters: {weight: 1.0, lambda: 2.0}
parameters: {density: 0.4}
dtype: float32
""",
    "other_models": """
merge_method: linear
modules:
  encoder: {models: [{model: t5/a, parameters: {weight: 1}}, {model: t5/b, parameters: {weight: 3}}]}
  decoder: {models: [{model: t5/c, parameters: {weight: 2}}, {model: t5/b, parameters: {weight: [1, 0]}}]}
  shared: {models: [{model: t5/c, parameters: {weight: 1}}]}
dtype: float32
""",
    "copied": """
merge_method: passthrough
modules:
  encoder: {models: [{model: t5/a}]}
  decoder: {models: [{model: t5/b, parameters: {scale: [{filter: DenseReluDense, value: 0.5}, {value: 1}]}}]}
  shared: {models: [{model: t5/a}]}
dtype: float32
""",
    "whole": """
merge_method: task_arithmetic
base_model: t5/base
models: [{model: t5/a, parameters: {weight: [0, 1]}}, {model: t5/b, parameters: {weight: 0.5}}]
dtype: float32
""",
}


def run(text: str, name: str) -> dict[str, Tensor]:
    """Return the tensors that mergekit writes."""
    config = MergeConfiguration.model_validate(yaml.safe_load(text))
    run_merge(config, name, MergeOptions(quiet=True, write_model_card=False, copy_tokenizer=False))
    return load_file(Path(name) / "model.safetensors")


def llamas() -> dict[str, Tensor]:
    """Run the recipes of the tiny Llamas in the working folder."""
    with safe_open(GOLDEN / "mergekit_recipes" / "inputs.safetensors", "pt") as file:
        config, tensors = file.metadata()["config"], {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for model in MODELS:
        Path(model).mkdir()
        own = {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{model}/")}
        save_file(own, f"{model}/model.safetensors", {"format": "pt"})
        Path(model, "config.json").write_text(config)
    outputs = {}
    for name, recipe in RECIPES.items():
        outputs |= {f"{name}/{key}": tensor for key, tensor in run(recipe, f"out_{name}").items()}
    Path("stages.yml").write_text(STAGES)
    tool = Path(sys.executable).with_name("mergekit-multi")
    options = ["--no-write-model-card", "--no-copy-tokenizer", "-I", "between", "--out-path", "out_stages"]
    subprocess.run([tool, "stages.yml", *options], check=True)
    outputs |= {f"stages/{key}": tensor for key, tensor in load_file("out_stages/model.safetensors").items()}
    return outputs


def t5s() -> tuple[dict[str, Tensor], str]:
    """Write tiny T5 models into the working folder, run their recipes; return inputs and outputs, and config.json."""
    config = T5Config(
        d_model=8, d_kv=4, d_ff=12, num_layers=3, num_decoder_layers=2, num_heads=2, vocab_size=12,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    model, random = T5ForConditionalGeneration(config), np.random.default_rng(SEED)
    origin = {name: random.normal(0, 0.3, tensor.shape) for name, tensor in model.state_dict().items()}
    flat = {}
    for kind in MODELS:
        state = {n: x + (0 if kind == "base" else random.normal(0, 0.05, x.shape)) for n, x in origin.items()}
        model.load_state_dict({name: torch.tensor(array, dtype=torch.float32) for name, array in state.items()})
        model.save_pretrained(f"t5/{kind}")
        flat |= {f"inputs/{kind}/{n}": t for n, t in load_file(f"t5/{kind}/model.safetensors").items()}
    for name, recipe in T5.items():
        flat |= {f"outputs/{name}/{key}": tensor for key, tensor in run(recipe, f"t5/out_{name}").items()}
    return flat, Path("t5/base/config.json").read_text()


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    folder = GOLDEN / "mergekit_recipes"
    versions = {"peer": "mergekit", "version": version("mergekit"), "transformers": version("transformers")}
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        outputs = llamas()
        save_golden(
            folder / "more.safetensors", outputs, versions | {"recipes": json.dumps(RECIPES | {"stages": STAGES})}
        )
        flat, config = t5s()
        save_golden(folder / "t5.safetensors", flat, versions | {"config": config, "recipes": json.dumps(T5)})
    for name in ("more", "t5"):
        print(name, (folder / f"{name}.safetensors").stat().st_size)


if __name__ == "__main__":
    main()
