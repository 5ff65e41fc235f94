"""What each family says may change places: shuffled at random it changes nothing, and Git Re-Basin puts it back."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fusionbench.families import Family, HasPermutations, Permutation, family_named
from fusionbench.families.permutations import residual_channels

TEXT = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 10, "vocab_size": 20,
        "max_position_embeddings": 16}  # fmt: skip
LLAMA = {"hidden_size": 8, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 16, "max_position_embeddings": 32}  # fmt: skip
T5 = {"model_type": "t5", "d_model": 8, "d_kv": 4, "d_ff": 10, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 3,
      "vocab_size": 16, "decoder_start_token_id": 0}  # fmt: skip
RESNET = {"model_type": "resnet", "embedding_size": 4, "depths": [2, 2], "num_labels": 2}
IMAGE = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 10, "image_size": 16,
         "patch_size": 8}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "bert": ("encoder", {"model_type": "bert", **TEXT}, 5),
    "roberta": ("encoder", {"model_type": "roberta", **TEXT, "pad_token_id": 1}, 4),
    "gpt2": ("gpt2", {"model_type": "gpt2", "n_embd": 12, "n_layer": 2, "n_head": 3, "vocab_size": 20}, 4),
    "llama": ("causal_lm", {"model_type": "llama", **LLAMA}, 5),
    "qwen2, tied": ("causal_lm", {"model_type": "qwen2", **LLAMA, "tie_word_embeddings": True}, 5),
    "qwen3": ("causal_lm", {"model_type": "qwen3", **LLAMA}, 5),
    "gemma2": ("causal_lm", {"model_type": "gemma2", **LLAMA}, 5),
    "mixtral": ("causal_lm", {"model_type": "mixtral", **LLAMA, "num_local_experts": 2}, 2),
    "t5": ("t5", T5, 2 + 4 + 2 + 1),
    "flan-t5": ("t5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, 2 + 4 + 2 + 1),
    "resnet": ("image_classifier", {**RESNET, "layer_type": "bottleneck", "hidden_sizes": [8, 16]}, 8 + 2),
    "basic resnet": ("image_classifier", {**RESNET, "layer_type": "basic", "hidden_sizes": [4, 8]}, 4 + 1),
    "vit": ("image_classifier", {"model_type": "vit", **IMAGE}, 4),
    "dinov2": ("image_classifier", {"model_type": "dinov2", **IMAGE, "mlp_ratio": 2}, 4),
    "convnext": ("image_classifier", {"model_type": "convnext", "depths": [1, 1], "hidden_sizes": [4, 8],
                                      "num_stages": 2, "patch_size": 2}, 2),
}  # fmt: skip


def made(case: str) -> tuple[Family, torch.nn.Module, tuple[Permutation, ...]]:
    """The family, a module of random tensors in float64, and its groups."""
    name, config, _ = CASES[case]
    family = family_named(name)
    assert isinstance(family, HasPermutations)
    module = family.skeleton(config).to_empty(device="cpu").double()
    random = torch.Generator().manual_seed(3)
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    fresh = family.skeleton(config)
    buffers = dict(fresh.named_buffers())
    with torch.no_grad():
        for key, tensor in held.items():
            if tensor.is_floating_point() and "inv_freq" not in key and key not in buffers:
                tensor.copy_(torch.randn(tensor.shape, generator=random, dtype=torch.float64) * 0.5)
            elif key.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=random, dtype=torch.float64) + 0.5)
            elif key.endswith("running_mean"):
                tensor.copy_(torch.randn(tensor.shape, generator=random, dtype=torch.float64))
            else:
                tensor.copy_(buffers[key])
    if case == "flan-t5":
        module.set_input_embeddings(module.shared)
    else:
        module.tie_weights()
    return family, module, tuple(family.permutations(config))


def batch(name: str) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(5)
    if CASES[name][0] == "image_classifier":
        size = 32 if "resnet" in name else 16
        return {"pixel_values": torch.randn(2, 3, size, size, generator=random, dtype=torch.float64)}
    tokens = torch.randint(2, 16, (2, 5), generator=random)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def own_tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """Every tensor once, under the first of its names: as a file has it."""
    found = {t.data_ptr(): name for name, t in reversed(module.state_dict(keep_vars=True).items())}
    return {name: t.detach().clone() for name, t in module.state_dict().items() if found[t.data_ptr()] == name}


def shuffled(state: dict[str, Tensor], groups: tuple[Permutation, ...], seed: int) -> dict[str, Tensor]:
    """Shuffle every group, entry by entry, in NumPy."""
    random, result = np.random.default_rng(seed), {name: tensor.numpy().copy() for name, tensor in state.items()}
    for group in groups:
        order = np.roll(np.arange(group.units), 1 + random.integers(group.units - 1))
        for name, axis in (*group.produced, *group.read):
            length, runs = result[name].shape[axis], group.runs.get(name, 1)
            block = length // group.units // runs
            places = [r * group.units * block + u * block + b for r in range(runs) for u in order for b in range(block)]
            result[name] = np.take(result[name], places, axis=axis)
    return {name: torch.from_numpy(array) for name, array in result.items()}


def features(family: Family, module: torch.nn.Module, given: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return family.features(module, dict(given))


@pytest.mark.parametrize("case", CASES)
def test_random_orders_of_all_groups_change_nothing_but_the_tensors(case: str) -> None:
    family, module, groups = made(case)
    count = CASES[case][2]
    assert len(groups) == len({group.name for group in groups}) == count
    given = batch(case)
    before, state = features(family, module, given), own_tensors(module)
    turned = shuffled(state, groups, 1)
    touched = {key for group in groups for key, _ in (*group.produced, *group.read)}
    assert all(not torch.equal(turned[key], state[key]) for key in touched)
    module.load_state_dict(turned, strict=False)
    # Some norms are taken in float32 whatever their input is.
    torch.testing.assert_close(features(family, module, given), before, rtol=1e-5, atol=1e-5)
    assert float(before.std()) > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_no_axis_of_a_group_can_be_left_out(case: str) -> None:
    family, module, groups = made(case)
    given = batch(case)
    before, state = features(family, module, given), own_tensors(module)
    for group in groups:
        for axis in group.read[:1]:
            lacking = group._replace(read=tuple(one for one in group.read if one != axis))
            module.load_state_dict(shuffled(state, (lacking,), 2), strict=False)
            # Norms that are taken in float32 alone give less than a tenth of this.
            gap = (features(family, module, given) - before).abs().max() / before.abs().max()
            assert float(gap) > 2e-6, group.name


def test_the_channels_that_heads_read_stay_in_their_order() -> None:
    module = family_named("image_classifier").skeleton({**RESNET, "layer_type": "basic", "hidden_sizes": [4, 8]})
    last = "encoder.stages.1.layers.1.layer.1.convolution.weight"
    assert not any((last, 0) in group.produced for group in residual_channels(module))
    stream = next(group for group in residual_channels(module) if group.name == "embedder.embedder")
    assert ("encoder.stages.0.layers.1.layer.1.convolution.weight", 0) in stream.produced
    assert {name for name, _ in stream.read} == {
        "encoder.stages.0.layers.0.layer.0.convolution.weight",
        "encoder.stages.0.layers.1.layer.0.convolution.weight",
        "encoder.stages.1.layers.0.layer.0.convolution.weight",
        "encoder.stages.1.layers.0.shortcut.convolution.weight",
    }


@pytest.mark.parametrize("case", ["t5", "flan-t5"])
def test_a_t5_that_transformers_5_saved_has_the_groups_of_the_one_that_it_read(case: str) -> None:
    from transformers import T5Config

    family, config = family_named("t5"), CASES[case][1]
    assert isinstance(family, HasPermutations)
    saved = T5Config.from_dict(config).to_dict()
    assert saved["tie_word_embeddings"] is True
    stream = family.permutations(saved)[-1]
    assert stream == family.permutations(config)[-1]
    assert (("lm_head.weight", 1) in stream.read) == (case == "flan-t5")
