"""Dense models into sparse ones: plain Mixtrals that answer as they should, whatever their routers say."""

import json

import numpy as np
import pytest
import torch
from causal import load_causal, logits, merged, save_causal, written
from torch.nn import functional

from fusionbench.errors import ConfigError, IncompatibleModels, MissingPart
from fusionbench.methods.moe_merging import moe_merging
from fusionbench.methods.moe_upscaling import moe_upscaling
from fusionbench.mixing.sites import ModuleSite
from fusionbench.weights.sources import open_source

SITE = ModuleSite("model.layers.1.mlp", depth=1, seed=5)


def mlp(seed, width=6, inner=10):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
    return {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def dense(tensors, tokens):
    gate, up = (functional.linear(tokens, tensors[f"{name}_proj.weight"]) for name in ("gate", "up"))
    return functional.linear(functional.silu(gate) * up, tensors["down_proj.weight"])


def sparse(made, tokens, top_k):
    """A Mixtral's block, a token at a time."""
    outputs = []
    for token in tokens:
        shares = (made["gate.weight"] @ token).softmax(-1)
        values, chosen = shares.topk(top_k)
        outputs.append(sum(v / values.sum() * dense(renamed(made, int(c)), token)
                           for v, c in zip(values, chosen, strict=True)))  # fmt: skip
    return torch.stack(outputs)


def renamed(made, number):
    names = {"gate_proj.weight": "w1.weight", "down_proj.weight": "w2.weight", "up_proj.weight": "w3.weight"}
    return {ours: made[f"experts.{number}.{theirs}"] for ours, theirs in names.items()}


def test_copies_answer_as_the_dense_mlp_whatever_the_router_says():
    base, tokens = mlp(0), torch.randn(5, 6)
    made = moe_upscaling(SITE, base, [], copies=4, top_k=2, router_deviation=3.0)
    assert made.place == "model.layers.1.block_sparse_moe"
    torch.testing.assert_close(sparse(made.tensors, tokens, 2), dense(base, tokens))


def test_a_silent_router_gives_the_mean_of_two_experts():
    """By hand: shares of one half."""
    first, second, tokens = mlp(1), mlp(2), torch.randn(5, 6)
    made = moe_merging(SITE, mlp(0), [first, second], router_deviation=0.0)
    expected = (dense(first, tokens) + dense(second, tokens)) / 2
    torch.testing.assert_close(sparse(made.tensors, tokens, 2), expected)


def test_routers_are_normal_and_differ_from_layer_to_layer():
    made = [moe_upscaling(ModuleSite("l.mlp", depth=d, seed=1), mlp(0, width=400), [], copies=8) for d in (0, 1)]
    gates = [one.tensors["gate.weight"] for one in made]
    assert gates[0].shape == (8, 400)
    assert 0.018 < gates[0].std().item() < 0.022
    assert not torch.equal(*gates)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_upscaled_model_is_a_plain_mixtral_with_the_dense_models_logits(kind, tied, tmp_path):
    save_causal(tmp_path / "dense", kind, layers=2, tie_word_embeddings=tied, rope_theta=5000.0)
    out = merged(tmp_path / "out", [f"base={tmp_path / 'dense'}", f"experts.m={tmp_path / 'dense'}",
                                    "method=moe_upscaling", "method.router_deviation=1"])  # fmt: skip
    model, found = load_causal(tmp_path / "dense"), load_causal(out)
    assert type(found).__name__ == "MixtralForCausalLM"
    assert (found.config.num_local_experts, found.config.num_experts_per_tok) == (4, 2)
    torch.testing.assert_close(logits(found), logits(model), rtol=1e-4, atol=1e-4)
    assert written(found, cache=True) == written(found, cache=False) == written(model, cache=True)
    assert not (out / "fusion_config.json").exists()
    assert found.config.sliding_window is None


def test_one_model_is_enough_and_needs_no_other_name(tmp_path):
    save_causal(tmp_path / "dense", layers=2)
    out = merged(tmp_path / "out", [f"experts.m={tmp_path / 'dense'}", "method=moe_upscaling", "method.copies=2"])
    torch.testing.assert_close(logits(load_causal(out)), logits(load_causal(tmp_path / "dense")), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("copies", [2, 4])
def test_the_size_is_that_of_the_formula(copies, tmp_path):
    """P + (E − 1)·L·3·h·i + L·E·h; for Mistral-7B and four copies 24,153,690,112."""
    save_causal(tmp_path / "dense", layers=2)
    out = merged(
        tmp_path / "out", [f"experts.m={tmp_path / 'dense'}", "method=moe_upscaling", f"method.copies={copies}"]
    )
    sizes = [sum(spec.size for spec in open_source(place).specs.values()) for place in (tmp_path / "dense", out)]
    assert sizes[1] == sizes[0] + (copies - 1) * 2 * 3 * 16 * 24 + 2 * copies * 16


def test_merged_models_keep_their_own_mlps_and_the_bases_attention(tmp_path):
    for seed, name in enumerate(("base", "a", "b")):
        save_causal(tmp_path / name, layers=2, seed=seed)
    named = [f"base={tmp_path / 'base'}", *(f"experts.{n}={tmp_path / n}" for n in "ab")]
    before = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("base", "a", "b")]
    found = open_source(merged(tmp_path / "out", [*named, "method=moe_merging"]))
    base, first, second = (open_source(tmp_path / name) for name in ("base", "a", "b"))
    for number, expert in enumerate((first, second)):
        for ours, theirs in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
            place = f"model.layers.1.block_sparse_moe.experts.{number}.{theirs}.weight"
            assert found.read(place) == expert.read(f"model.layers.1.mlp.{ours}.weight")
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert found.read(name) == base.read(name)
    load_causal(tmp_path / "out")
    assert [(tmp_path / n / "model.safetensors").read_bytes() for n in ("base", "a", "b")] == before


def test_the_rest_may_be_the_experts_average(tmp_path):
    for seed, name in enumerate(("base", "a", "b")):
        save_causal(tmp_path / name, layers=1, seed=seed)
    named = [f"base={tmp_path / 'base'}", *(f"experts.{n}={tmp_path / n}" for n in "ab")]
    out = merged(tmp_path / "out", [*named, "method=moe_merging", "method.others=average"])
    name = "model.norm.weight"
    arrays = [
        np.frombuffer(open_source(place).read(name), np.float32) for place in (tmp_path / "a", tmp_path / "b", out)
    ]
    np.testing.assert_allclose(arrays[2], (arrays[0] + arrays[1]) / 2, atol=1e-6)


def test_the_same_model_twice_is_that_model(tmp_path):
    save_causal(tmp_path / "m", layers=2)
    named = [f"base={tmp_path / 'm'}", *(f"experts.{n}={tmp_path / 'm'}" for n in "ab")]
    out = merged(tmp_path / "out", [*named, "method=moe_merging"])
    torch.testing.assert_close(logits(load_causal(out)), logits(load_causal(tmp_path / "m")), rtol=1e-4, atol=1e-4)


class TestRefusals:
    def refused(self, tmp_path, *overrides):
        try:
            merged(tmp_path / "out", list(overrides))
        finally:
            assert not (tmp_path / "out").exists()

    def test_more_experts_a_token_than_there_are(self, tmp_path):
        save_causal(tmp_path / "m", layers=1)
        with pytest.raises(ConfigError, match="top_k=3 experts a token cannot be chosen of 2"):
            self.refused(
                tmp_path, f"experts.m={tmp_path / 'm'}", "method=moe_upscaling", "method.copies=2", "method.top_k=3"
            )

    def test_another_architecture(self, tmp_path):
        save_causal(tmp_path / "m", "gpt2", layers=1, n_embd=16, n_head=2)
        with pytest.raises(MissingPart, match="gpt2"):
            self.refused(tmp_path, f"experts.m={tmp_path / 'm'}", "method=moe_upscaling")

    def test_a_relative_with_biases(self, tmp_path):
        save_causal(tmp_path / "m", layers=1, attention_bias=True)
        with pytest.raises(ConfigError, match="attention_bias"):
            self.refused(tmp_path, f"experts.m={tmp_path / 'm'}", "method=moe_upscaling")

    def test_experts_of_other_widths(self, tmp_path):
        save_causal(tmp_path / "base", layers=1)
        save_causal(tmp_path / "a", layers=1, intermediate_size=32)
        with pytest.raises(IncompatibleModels, match="gate_proj"):
            self.refused(tmp_path, f"base={tmp_path / 'base'}", f"experts.a={tmp_path / 'a'}", "method=moe_merging",
                         "method.top_k=1")  # fmt: skip

    def test_several_models_and_no_base(self, tmp_path):
        for name in "ab":
            save_causal(tmp_path / name, layers=1)
        named = [f"experts.{n}={tmp_path / n}" for n in "ab"]
        with pytest.raises(ConfigError, match="takes one model, and there are 2"):
            self.refused(tmp_path, *named, "method=moe_upscaling")
        with pytest.raises(ConfigError, match="works on a base model"):
            self.refused(tmp_path, *named, "method=moe_merging")


def test_the_configuration_has_nothing_of_the_dense_architecture(tmp_path):
    save_causal(tmp_path / "m", layers=1)
    out = merged(tmp_path / "out", [f"experts.m={tmp_path / 'm'}", "method=moe_upscaling", "output.dtype=bfloat16"])
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["MixtralForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert not {"mlp_bias", "attention_bias", "pretraining_tp"} & set(config)
