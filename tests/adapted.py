"""Tiny models with random adapters of PEFT's, and what PEFT itself makes of the two."""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from checkpoints import save_model
from fusionbench.config import Recipe
from fusionbench.weights.adapters import AdaptedSource, open_adapter
from fusionbench.weights.headers import NUMPY
from fusionbench.weights.sources import open_source


def llama(**changes) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, **changes))


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16, **ends))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv1d(6, 4, 1)


def adapt(folder: Path, model: nn.Module, config, seed: int = 1) -> dict[str, torch.Tensor]:
    """Save a base and an adapter with random numbers; return what PEFT's own merge makes of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not (folder / "base").exists():
            if hasattr(model, "save_pretrained"):
                model.save_pretrained(folder / "base")
            else:
                save_model(folder / "base", model.state_dict())
        adapted = get_peft_model(model, config)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * 0.3
                positive = "magnitude" in name or "ia3" in name
                parameter.data = parameter.data + (noise.abs() if positive else noise)
        adapted.save_pretrained(folder / f"adapter{seed}")
        merged = adapted.merge_and_unload()
    (folder / f"merged{seed}").mkdir()
    weights = {name: tensor.contiguous() for name, tensor in merged.state_dict().items()}
    save_model(folder / f"merged{seed}", {name: weights[name].clone() for name in open_source(folder / "base").specs})
    return weights


def opened(folder: Path, space=None, seed: int = 1) -> AdaptedSource:
    return open_adapter(folder / f"adapter{seed}", open_source(folder / "base"), space)


def values(source, name: str) -> np.ndarray:
    spec = source.specs[name]
    return np.frombuffer(source.read(name), NUMPY[spec.dtype]).reshape(spec.shape)


def edit_config(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def recipe(folder: Path, *overrides: str, method: str = "task_arithmetic", experts: str = "adapter") -> Recipe:
    named = [f"experts.e{seed}={folder / f'{experts}{seed}'}" for seed in (1, 2)]
    return Recipe.load(None, [f"base={folder / 'base'}", *named, f"method={method}", "runtime.threads=1", *overrides])


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT2_ALL = ["c_attn", "c_proj", "c_fc"]
CASES = {
    "lora": (llama, LoraConfig(r=4, lora_alpha=6, target_modules=ALL)),
    "rank-stabilised": (llama, LoraConfig(r=4, lora_alpha=6, target_modules=ALL, use_rslora=True)),
    "ranks and alphas by pattern": (
        llama,
        LoraConfig(r=4, target_modules=ALL, rank_pattern={"q_proj": 2, r"layers\.1\.mlp\..*": 3},
                   alpha_pattern={"q_proj": 5, "layers.0.self_attn.v_proj": 7}),
    ),
    "conv1d, of which some are square": (gpt2, LoraConfig(r=4, target_modules=GPT2_ALL, fan_in_fan_out=True)),
    "every bias": (gpt2, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, bias="all")),
    "biases of targets": (gpt2, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, bias="lora_only")),
    "bias of B": (gpt2, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, lora_bias=True)),
    "modules saved whole": (llama, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "norm"])),
    "embedding": (llama, LoraConfig(r=4, target_modules=["embed_tokens", "lm_head", "q_proj"])),
    "dora": (llama, LoraConfig(r=4, target_modules=ALL, use_dora=True)),
    "dora of conv1d": (gpt2, LoraConfig(r=4, target_modules=GPT2_ALL, fan_in_fan_out=True, use_dora=True)),
    "dora of an embedding": (llama, LoraConfig(r=4, target_modules=["embed_tokens"], use_dora=True)),
    "convolutions": (Convolutions, LoraConfig(r=2, target_modules=["first", "second"])),
    "dora of convolutions": (Convolutions, LoraConfig(r=2, target_modules=["first", "second"], use_dora=True)),
}  # fmt: skip
IA3_CASES = {
    "ia3": (llama, IA3Config(target_modules=["k_proj", "o_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "ia3 of conv1d": (
        gpt2,
        IA3Config(target_modules=["c_attn", "mlp.c_proj", "attn.c_proj"], feedforward_modules=["mlp.c_proj"],
                  fan_in_fan_out=True),
    ),
}  # fmt: skip
