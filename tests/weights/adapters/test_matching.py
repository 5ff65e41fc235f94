"""Everything of an adapter that does not fit the base is found at once."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaModel

from adapted import ALL, adapt, edit_config, llama, opened, values
from checkpoints import read_model, save_model
from fusionbench.errors import CheckpointError, IncompatibleModels
from fusionbench.weights.adapters import open_adapter
from fusionbench.weights.sources import open_source


def test_an_adapter_of_the_whole_model_fits_a_base_that_was_saved_without_the_head(tmp_path):
    model = llama()
    expected = adapt(tmp_path, model, LoraConfig(r=4, target_modules=ALL))
    inner = LlamaModel(llama().config)
    inner.load_state_dict(llama().model.state_dict())
    inner.save_pretrained(tmp_path / "inner")
    source = open_adapter(tmp_path / "adapter1", open_source(tmp_path / "inner"))
    name = "layers.1.mlp.up_proj.weight"
    np.testing.assert_allclose(values(source, name), expected[f"model.{name}"].numpy(), atol=1e-6)


def test_an_adapter_for_another_base_is_refused_with_every_difference(two):
    weights = read_model(two / "base")
    del weights["model.layers.0.mlp.up_proj.weight"]
    weights["model.layers.1.self_attn.q_proj.weight"] = torch.ones(7, 16)
    weights["model.layers.1.self_attn.k_proj.weight"] = torch.ones(8, 16, dtype=torch.int8)
    save_model(two / "other", weights)
    edit_config(two / "adapter1", base_model_name_or_path="org/right")
    with pytest.raises(IncompatibleModels) as caught:
        open_adapter(two / "adapter1", open_source(two / "other"))
    message = str(caught.value)
    assert "(3 differences)" in message
    assert "layers.0.mlp.up_proj.weight is adapted, the base has no such tensor" in message
    assert (
        "layers.1.self_attn.q_proj.weight is [7, 16] in the base, the adapter is made for B [16, 4] · A [4, 16]"
        in message
    )
    assert "layers.1.self_attn.k_proj.weight holds I8" in message
    assert "org/right" in message


def test_ranks_other_than_the_configuration_says_are_refused(two):
    edit_config(two / "adapter1", r=3)
    with pytest.raises(IncompatibleModels, match="adapted at rank 4, its configuration says 3"):
        opened(two)


def test_an_adapter_that_lost_a_factor_is_refused(two):
    file = two / "adapter1" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, file)
    with pytest.raises(IncompatibleModels, match=r"layers\.0\.self_attn\.q_proj\.weight has one of A and B"):
        opened(two)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, target_modules=["embed_tokens"]),
        LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    ],
    ids=["low rank", "saved whole"],
)
def test_a_tied_embedding_that_is_changed_on_one_side_is_refused(tmp_path, config):
    adapt(tmp_path, llama(tie_word_embeddings=True), config)
    with pytest.raises(IncompatibleModels, match=r"embed_tokens\.weight is tied"):
        opened(tmp_path)


def test_a_gemma_is_tied_where_its_configuration_does_not_say_so(tmp_path):
    from transformers import GemmaConfig, GemmaForCausalLM

    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "head_dim": 8}
    gemma = GemmaForCausalLM(GemmaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
    adapt(tmp_path, gemma, LoraConfig(r=4, target_modules=["embed_tokens"]))
    path = tmp_path / "base/config.json"
    said = json.loads(path.read_text())
    assert said.pop("tie_word_embeddings")
    path.write_text(json.dumps(said))
    with pytest.raises(IncompatibleModels, match=r"embed_tokens\.weight is tied"):
        opened(tmp_path)


def test_tensors_of_an_unknown_variant_are_refused(two):
    file = two / "adapter1" / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.model.norm.lora_C.weight": torch.ones(2)}, file)
    with pytest.raises(CheckpointError, match=r"norm\.lora_C\.weight"):
        opened(two)


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def test_dora_without_its_magnitude_is_refused(two):
    edit_config(two / "adapter1", use_dora=True)
    with pytest.raises(IncompatibleModels, match="a magnitude that is missing"):
        opened(two)


def test_a_bias_that_the_base_has_not_is_refused(two):
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias"
    rewrite(two / "adapter1" / "adapter_model.safetensors", lambda tensors: tensors.update({name: torch.ones(16)}))
    with pytest.raises(IncompatibleModels, match=r"q_proj\.bias is adapted as \[16\], the base has no such tensor"):
        opened(two)


def test_a_tensor_that_is_saved_whole_in_another_shape_is_refused(two):
    name = "base_model.model.lm_head.weight"
    rewrite(two / "adapter1" / "adapter_model.safetensors", lambda tensors: tensors.update({name: torch.ones(40, 16)}))
    with pytest.raises(IncompatibleModels) as caught:
        opened(two)
    assert "lm_head.weight is F32 [40, 16] in the adapter, F32 [32, 16] in the base. It was trained with other" in str(
        caught.value
    )
    assert "(merge_and_unload), save that, and name the folder instead. Then" in str(caught.value)
    assert "vocabulary=base or union" in str(caught.value)


@pytest.mark.parametrize("shape", [(7, 1), (1, 7), (1, 48, 1)])
def test_ia3_vectors_that_fit_no_side_of_a_matrix_are_refused(vectors, shape):
    name = "base_model.model.transformer.h.0.attn.c_attn.ia3_l"
    rewrite(
        vectors / "adapter1" / "adapter_model.safetensors", lambda tensors: tensors.update({name: torch.ones(shape)})
    )
    with pytest.raises(
        IncompatibleModels, match=r"c_attn\.weight is \[16, 48\] in the base, the adapter is made for \(IA\)"
    ):
        opened(vectors, "dense")


def test_an_embedding_that_is_saved_whole_but_unchanged_may_be_tied(tmp_path):
    adapt(tmp_path, llama(tie_word_embeddings=True), LoraConfig(r=4, target_modules=["q_proj"]))
    embedding = read_model(tmp_path / "base")["model.embed_tokens.weight"]
    name = "base_model.model.model.embed_tokens.weight"
    file = tmp_path / "adapter1" / "adapter_model.safetensors"
    rewrite(file, lambda tensors: tensors.update({name: embedding}))
    np.testing.assert_array_equal(values(opened(tmp_path), "model.embed_tokens.weight"), embedding.numpy())


def test_a_base_with_a_longer_prefix_is_recognised(two):
    weights = {f"outer.{name}": tensor for name, tensor in read_model(two / "base").items()}
    save_model(two / "longer", weights)
    name = "model.layers.0.mlp.up_proj.weight"
    longer = open_adapter(two / "adapter1", open_source(two / "longer"))
    np.testing.assert_array_equal(values(longer, f"outer.{name}"), values(opened(two), name))


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
@pytest.mark.parametrize("whole", [True, False], ids=["classifier", "bare model"])
def test_an_adapter_has_the_names_of_modules_where_files_keep_older_ones(tmp_path, kind, whole):
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = AutoConfig.for_model(kind, **sizes)
    model = AutoModelForImageClassification.from_config(config)
    model.save_pretrained(tmp_path / "base")
    if not whole:
        AutoModel.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "base")
    lora = LoraConfig(r=2, target_modules=["q_proj", "fc2"], modules_to_save=["classifier", "layernorm"])
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 by a name that it has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, lora)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        adapted.save_pretrained(tmp_path / "adapter")
        adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    expected = {name.removeprefix(f"{kind}."): tensor for name, tensor in read_model(tmp_path / "merged").items()}
    base = open_source(tmp_path / "base")
    found = open_adapter(tmp_path / "adapter", base)
    changed = {name for name in base.specs if base.read(name) != found.read(name)}
    assert len(changed) == 2 * 2 + 2 + 2 * whole
    for name in {*changed, "classifier.weight"}:
        np.testing.assert_allclose(values(found, name), expected[name.removeprefix(f"{kind}.")].numpy(), atol=1e-5)
