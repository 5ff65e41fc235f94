"""Roles and places on the names that transformers' own models have, built tiny."""

from functools import cache

import pytest
import torch
import transformers

from checkpoints import read_model
from fusionbench.weights.headers import TensorSpec
from fusionbench.weights.roles import Place, inputs_last, is_statistic, places, role

SIZES = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MODELS = {
    "llama": ("LlamaForCausalLM", transformers.LlamaConfig(vocab_size=11, num_key_value_heads=1, **SIZES, **TOKENS)),
    "gpt2": (
        "GPT2ForSequenceClassification",
        transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, num_labels=3, **TOKENS),
    ),
    "t5": (
        "T5ForConditionalGeneration",
        transformers.T5Config(
            vocab_size=11, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_decoder_layers=3, num_heads=2
        ),
    ),
    "bert": (
        "BertForSequenceClassification",
        transformers.BertConfig(vocab_size=11, max_position_embeddings=8, **SIZES, **TOKENS),
    ),
    "clip": (
        "CLIPModel",
        transformers.CLIPConfig(
            text_config={"vocab_size": 11, "max_position_embeddings": 8, **SIZES, **TOKENS},
            vision_config={"image_size": 8, "patch_size": 4, **SIZES, "num_hidden_layers": 3},
            projection_dim=6,
        ),
    ),
    "vit": ("ViTForImageClassification", transformers.ViTConfig(image_size=8, patch_size=4, **SIZES)),
    "resnet": (
        "ResNetForImageClassification",
        transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 2], layer_type="basic"),
    ),
    "convnext": (
        "ConvNextForImageClassification",
        transformers.ConvNextConfig(num_stages=2, hidden_sizes=[4, 8], depths=[1, 2]),
    ),
    "mixtral": (
        "MixtralForCausalLM",
        transformers.MixtralConfig(
            vocab_size=11, num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1, **SIZES, **TOKENS
        ),
    ),
}  # fmt: skip


@cache
def specs(architecture: str) -> dict[str, TensorSpec]:
    """Every tensor of a tiny model as a checkpoint's header would name it."""
    name, config = MODELS[architecture]
    with torch.device("meta"):
        state = getattr(transformers, name)(config).state_dict()
    return {name: TensorSpec(name, "F32", tuple(tensor.shape)) for name, tensor in state.items()}


ROLES = {
    "llama": {
        "model.embed_tokens.weight": "embedding",
        "model.layers.0.self_attn.k_proj.weight": "matrix",
        "model.layers.1.mlp.down_proj.weight": "matrix",
        "model.layers.1.input_layernorm.weight": "norm",
        "model.norm.weight": "norm",
        "lm_head.weight": "head",
    },
    "gpt2": {
        "transformer.wte.weight": "embedding",
        "transformer.wpe.weight": "embedding",
        "transformer.h.0.ln_1.bias": "norm",
        "transformer.h.0.attn.c_attn.weight": "matrix",
        "transformer.h.0.attn.c_attn.bias": "bias",
        "transformer.h.1.mlp.c_proj.weight": "matrix",
        "transformer.ln_f.weight": "norm",
        "score.weight": "head",
    },
    "t5": {
        "shared.weight": "embedding",
        "encoder.embed_tokens.weight": "embedding",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "embedding",
        "encoder.block.0.layer.0.SelfAttention.q.weight": "matrix",
        "decoder.block.2.layer.1.EncDecAttention.o.weight": "matrix",
        "decoder.block.0.layer.2.layer_norm.weight": "norm",
        "decoder.final_layer_norm.weight": "norm",
        "lm_head.weight": "head",
    },
    "bert": {
        "bert.embeddings.token_type_embeddings.weight": "embedding",
        "bert.embeddings.LayerNorm.weight": "norm",
        "bert.encoder.layer.1.attention.self.query.bias": "bias",
        "bert.encoder.layer.1.output.dense.weight": "matrix",
        "bert.pooler.dense.weight": "matrix",
        "classifier.weight": "head",
        "classifier.bias": "head",
    },
    "clip": {
        "logit_scale": "other",
        "text_model.embeddings.token_embedding.weight": "embedding",
        "vision_model.embeddings.class_embedding": "embedding",
        "vision_model.embeddings.patch_embedding.weight": "conv",
        "vision_model.embeddings.position_embedding.weight": "embedding",
        "vision_model.pre_layrnorm.weight": "norm",
        "vision_model.encoder.layers.0.layer_norm1.bias": "norm",
        "vision_model.encoder.layers.0.mlp.fc1.weight": "matrix",
        "visual_projection.weight": "matrix",
    },
    "vit": {
        "vit.embeddings.cls_token": "embedding",
        "vit.embeddings.position_embeddings": "embedding",
        "vit.embeddings.patch_embeddings.projection.weight": "conv",
        "vit.embeddings.patch_embeddings.projection.bias": "bias",
        "vit.layers.0.layernorm_before.weight": "norm",
        "classifier.bias": "head",
    },
    "resnet": {
        "resnet.embedder.embedder.convolution.weight": "conv",
        "resnet.embedder.embedder.normalization.weight": "norm",
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight": "conv",
        "classifier.1.weight": "head",
    },
    "convnext": {
        "convnext.embeddings.patch_embeddings.weight": "conv",
        "convnext.embeddings.layernorm.bias": "norm",
        "convnext.encoder.stages.0.layers.0.layer_scale_parameter": "other",
        "convnext.encoder.stages.0.layers.0.dwconv.weight": "conv",
        "convnext.encoder.stages.0.layers.0.pwconv1.weight": "matrix",
        "convnext.encoder.stages.1.downsampling_layer.1.weight": "conv",
    },
    "mixtral": {
        "model.layers.0.mlp.gate.weight": "matrix",
        "model.layers.0.mlp.experts.gate_up_proj": "other",
        "model.layers.1.mlp.experts.down_proj": "other",
        "lm_head.weight": "head",
    },
}
PLACES = {
    "llama": {"model.layers.1.mlp.up_proj.weight": Place("", 1, 2), "model.norm.weight": Place("", None, 1)},
    "gpt2": {"transformer.h.1.ln_2.weight": Place("", 1, 2), "transformer.wte.weight": Place("", None, 1)},
    "t5": {
        "shared.weight": Place("", None, 1),
        "encoder.block.1.layer.0.SelfAttention.q.weight": Place("encoder", 1, 2),
        "decoder.block.0.layer.1.EncDecAttention.q.weight": Place("decoder", 0, 3),
        "decoder.block.2.layer.2.DenseReluDense.wo.weight": Place("decoder", 2, 3),
    },
    "bert": {"bert.encoder.layer.1.output.dense.weight": Place("", 1, 2), "bert.pooler.dense.bias": Place("", None, 1)},
    "clip": {
        "text_model.encoder.layers.1.mlp.fc1.weight": Place("", 1, 2),
        "vision_model.encoder.layers.2.mlp.fc1.weight": Place("", 2, 3),
        "vision_model.post_layernorm.weight": Place("", None, 1),
    },
    "vit": {"vit.layers.1.attention.o_proj.weight": Place("", 1, 2)},
    "resnet": {
        "resnet.embedder.embedder.convolution.weight": Place("", None, 1),
        "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight": Place("", 0, 3),
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight": Place("", 1, 3),
        "resnet.encoder.stages.1.layers.1.layer.0.normalization.running_var": Place("", 2, 3),
    },
    "convnext": {
        "convnext.encoder.stages.0.layers.0.dwconv.weight": Place("", 0, 3),
        "convnext.encoder.stages.1.downsampling_layer.1.weight": Place("", 1, 3),
        "convnext.encoder.stages.1.layers.1.pwconv2.bias": Place("", 2, 3),
    },
    "mixtral": {"model.layers.1.mlp.experts.down_proj": Place("", 1, 2)},
}
NAMED = [(architecture, name) for architecture, names in ROLES.items() for name in names]
PLACED = [(architecture, name) for architecture, names in PLACES.items() for name in names]


@pytest.mark.parametrize(("architecture", "name"), NAMED)
def test_each_tensor_plays_the_part_that_its_architecture_gives_it(architecture, name):
    assert role(specs(architecture)[name]) == ROLES[architecture][name]


@pytest.mark.parametrize(("architecture", "name"), PLACED)
def test_each_tensor_stands_where_its_architecture_puts_it(architecture, name):
    assert places(specs(architecture))[name] == PLACES[architecture][name]


@pytest.mark.parametrize("architecture", MODELS)
def test_depths_count_every_block_of_a_stack_once(architecture):
    found: dict[str, set[int]] = {}
    for name, place in places(specs(architecture)).items():
        if place.depth is not None:
            found.setdefault(f"{name.split('.')[0]}/{place.stack}/{place.depths}", set()).add(place.depth)
    for stack, depths in found.items():
        assert depths == set(range(int(stack.rpartition("/")[2])))


TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


@pytest.mark.parametrize("architecture", MODELS)
def test_only_the_conv1d_layers_of_gpt2_have_their_inputs_first(architecture):
    first = {n for n, spec in specs(architecture).items() if not inputs_last(spec, {"model_type": architecture})}
    expected = (
        {f"transformer.h.{i}.{name}" for i in range(2) for name in TRANSPOSED} if architecture == "gpt2" else set()
    )
    assert first == expected


def test_the_names_of_conv1d_layers_mean_nothing_in_other_architectures():
    spec = TensorSpec("transformer.h.0.attn.c_attn.weight", "F32", (8, 24))
    assert inputs_last(spec, {"model_type": "gpt_bigcode"})
    assert inputs_last(spec, {})


def test_only_running_means_and_variances_are_statistics():
    named = [name for name in specs("resnet") if is_statistic(name)]
    assert named == [name for name in specs("resnet") if name.endswith(("running_mean", "running_var"))]
    assert len(named) == 2 * 8
    assert not is_statistic("model.layers.0.running_average.weight")


def test_names_written_to_files_have_the_same_parts(tmp_path):
    """transformers writes a Mixtral's experts one by one, under other names than the module's."""
    name, config = MODELS["mixtral"]
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    files = {name: TensorSpec(name, "F32", tuple(tensor.shape)) for name, tensor in read_model(tmp_path).items()}
    single = [spec for name, spec in files.items() if ".experts.1." in name]
    assert single
    assert {role(spec) for spec in single} == {"matrix"}
    assert {places(files)[spec.name].depth for spec in single} == {0, 1}


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blocks.0.norm1.linear.weight", (8, 4), "matrix"),
        ("blocks.0.norm1.linear.bias", (8,), "norm"),
        ("blocks.0.attn.bias", (4, 9), "matrix"),
        ("blocks.0.attn.bias", (9,), "bias"),
        ("blocks.0.scale", (), "other"),
        ("conv1d.weight", (8, 4, 3), "conv"),
        ("embed.weight", (1, 9), "embedding"),
    ],
)
def test_shapes_decide_where_names_do_not(name, shape, expected):
    assert role(TensorSpec(name, "F32", shape)) == expected


def test_stages_and_blocks_of_other_spellings_are_found():
    names = ["blocks.0.w", "blocks.1.w", "blocks.10.w", "stem.w"]
    assert [places(names)[name].depth for name in names] == [0, 1, 2, None]


def test_an_encoder_and_a_decoder_are_told_apart_only_where_both_are():
    bart = ["model.encoder.layers.0.w", "model.decoder.layers.0.w", "model.decoder.layers.1.w"]
    assert [places(bart)[name].stack for name in bart] == ["encoder", "decoder", "decoder"]
    assert places(bart[:1])[bart[0]].stack == ""
