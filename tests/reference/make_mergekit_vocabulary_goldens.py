"""Write what mergekit makes of models with different tokenizers, on tiny Llamas of one layer.

Run by an interpreter that has mergekit 0.1.5: ``python make_mergekit_vocabulary_goldens.py``. Writes
``golden/mergekit_vocabulary.safetensors``: ``inputs/<model>/<tensor>`` and ``outputs/<recipe>/<tensor>`` for the tables
of tokens and one matrix, with the metadata ``vocabularies`` (model -> token -> number), ``config`` (the models'
config.json without vocab_size) and ``recipes`` (name -> {recipe: YAML, tokens: token -> number of the output, template:
the chat template of the output}). mergekit numbers the new tokens of a union in the order of a hash map, so a reader
compares rows by token. Models in a recipe are the folders base, a, b of the working directory; those that lack a
tensor's other rows are in the rest of the model alike.
"""

# ruff: noqa: T201

from __future__ import annotations

import contextlib
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from golden_inputs import GOLDEN
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

KEPT = ("model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight")
VOCABULARIES = {
    "base": ["<unk>", "<s>", "</s>", "a", "b", "c", "d"],
    "a": ["<unk>", "<s>", "</s>", "b", "a", "d", "c", "x", "y"],
    "b": ["<unk>", "<s>", "</s>", "a", "c", "x", "z", "w"],
}
ROWS = {"base": 8, "a": 9, "b": 10}
TEMPLATES = {name: "{{ messages[0] }} of " + ("the base" if name == "base" else "both") for name in VOCABULARIES}
ARITHMETIC = """
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: 0.7}}
  - {model: b, parameters: {weight: 0.4}}
dtype: float32
"""
LINEAR = """
merge_method: linear
models:
  - {model: base, parameters: {weight: 1}}
  - {model: a, parameters: {weight: 2}}
  - {model: b, parameters: {weight: 1}}
dtype: float32
"""
RECIPES = {
    "union": ARITHMETIC + "tokenizer_source: union\n",
    "base": ARITHMETIC + "tokenizer_source: base\n",
    "expert": ARITHMETIC + "tokenizer: {source: b}\n",
    "linear_union": LINEAR + "tokenizer: {source: union}\n",
    "rules": ARITHMETIC
    + """
tokenizer:
  source: union
  pad_to_multiple_of: 8
  tokens:
    x: {source: b}
    y: {source: {kind: zero}}
    z: {source: {kind: model_token, model: a, token: c}, force: true}
    w: {source: {kind: model_token, model: base, token_id: 3}}
    a: {source: a, force: true}
    <new>: {source: {kind: model_token, model: b, token: w}}
chat_template: auto
""",
    "template": ARITHMETIC + "tokenizer_source: base\nchat_template: '{{ messages[0] }} written here'\n",
}


def make_model(folder: Path, name: str, seed: int) -> None:
    config = LlamaConfig(
        vocab_size=ROWS[name], hidden_size=4, intermediate_size=6, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARIES[name])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATES[name]
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Make the models, merge them by every recipe, write what came of it."""
    tensors, notes = {}, {}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for seed, name in enumerate(VOCABULARIES):
            make_model(Path(name), name, seed)
            held = load_file(f"{name}/model.safetensors")
            tensors |= {f"inputs/{name}/{key}": held[key] for key in held}
        config = json.loads(Path("base/config.json").read_text())
        for name, text in RECIPES.items():
            document = yaml.safe_load(text)
            run_merge(MergeConfiguration.model_validate(document), f"out/{name}", MergeOptions(write_model_card=False))
            tokenizer = AutoTokenizer.from_pretrained(f"out/{name}")
            notes[name] = {"recipe": text, "tokens": tokenizer.get_vocab(), "template": tokenizer.chat_template}
            made = load_file(f"out/{name}/model.safetensors")
            tensors |= {f"outputs/{name}/{key}": made[key] for key in KEPT}
            print(name, {key: tuple(made[key].shape) for key in KEPT})
    metadata = {
        "mergekit": version("mergekit"), "transformers": version("transformers"), "recipes": json.dumps(notes),
        "vocabularies": json.dumps(VOCABULARIES), "templates": json.dumps(TEMPLATES), "rows": json.dumps(ROWS),
        "config": json.dumps(config),
    }  # fmt: skip
    save_file({key: t.contiguous() for key, t in tensors.items()}, GOLDEN / "mergekit_vocabulary.safetensors", metadata)


if __name__ == "__main__":
    main()
