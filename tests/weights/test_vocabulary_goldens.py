"""Recipes of mergekit for models of different tokenizers, followed unchanged, against what mergekit 0.1.5 made."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_inputs import GOLDEN
from safetensors import safe_open
from safetensors.torch import load_file
from vocabularies import save_worded

from fusionbench.compat import load_recipe
from fusionbench.merge import merge

with safe_open(GOLDEN / "mergekit_vocabulary.safetensors", framework="pt") as file:
    NOTES = {key: json.loads(value) if value[:1] in "{[" else value for key, value in file.metadata().items()}
    TENSORS = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vocabularies")
    for name, words in NOTES["vocabularies"].items():
        prefix = f"inputs/{name}/"
        tensors = {key.removeprefix(prefix): t for key, t in TENSORS.items() if key.startswith(prefix)}
        save_worded(root / name, tensors, words, NOTES["config"], NOTES["templates"][name])
    return root


def merged(recipe: str, models: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, tuple[str, ...]]:
    monkeypatch.chdir(models)
    file = out.with_suffix(".yml")
    file.write_text(recipe)
    read, _ = load_recipe(file, ["runtime.threads=1"])
    return out, merge(read, out).notes


@pytest.mark.parametrize("name", NOTES["recipes"])
def test_each_token_has_the_row_that_mergekit_gives_it(
    name: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    expected: dict[str, Any] = NOTES["recipes"][name]
    out, _ = merged(expected["recipe"], models, tmp_path / "out", monkeypatch)
    tokenizer = AutoTokenizer.from_pretrained(out)
    numbers = tokenizer.get_vocab()
    assert numbers.keys() == expected["tokens"].keys()
    made = load_file(out / "model.safetensors")
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        theirs = TENSORS[f"outputs/{name}/{key}"]
        assert made[key].shape == theirs.shape
        for token, number in numbers.items():
            row = theirs[expected["tokens"][token]]
            torch.testing.assert_close(made[key][number], row, atol=2e-6, rtol=0, msg=lambda m, t=token: f"{t}: {m}")
        torch.testing.assert_close(made[key][len(numbers) :], theirs[len(numbers) :], atol=2e-6, rtol=0)
    matrix = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(made[matrix], TENSORS[f"outputs/{name}/{matrix}"], atol=2e-6, rtol=0)
    assert tokenizer.chat_template == expected["template"]

    model, info = LlamaForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    with torch.inference_mode():
        assert torch.isfinite(model(**tokenizer("a b x", return_tensors="pt"), use_cache=False).logits).all()
    assert tokenizer.convert_ids_to_tokens(tokenizer("a c d").input_ids) == [
        token if token in numbers else "<unk>" for token in ("a", "c", "d")
    ]


def test_slices_are_cut_out_of_models_that_were_brought_together(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack of one layer of each: its embeddings are of the first slice's model, in the union's order."""
    sources = ["- sources: [{model: base, layer_range: [0, 1]}]", "- sources: [{model: b, layer_range: [0, 1]}]"]
    recipe = "\n".join(
        ["merge_method: passthrough", "base_model: base", "tokenizer_source: union", "slices:", *sources]
    )
    out, _ = merged(recipe, models, tmp_path / "out", monkeypatch)
    made = load_file(out / "model.safetensors")
    config = json.loads((out / "config.json").read_text())
    assert (config["num_hidden_layers"], config["vocab_size"]) == (2, 10)
    # Base's own seven tokens, then x, z and w of the other model; those rows are lent to the base.
    own, other = (TENSORS[f"inputs/{name}/model.embed_tokens.weight"] for name in ("base", "b"))
    assert made["model.embed_tokens.weight"].equal(torch.cat([own[:7], other[5:8]]))
    assert made["model.layers.1.mlp.up_proj.weight"].equal(TENSORS["inputs/b/model.layers.0.mlp.up_proj.weight"])
