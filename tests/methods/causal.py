"""Tiny causal language models on disk, and what they answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fusionbench.stages import merge_stages

SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
TOKENS = torch.tensor([[3, 7, 30, 12, 5], [9, 2, 4, 4, 21]])


def save_causal(folder: Path, kind: str = "llama", layers: int = 4, seed: int = 0, **changes: Any) -> Path:
    """Write a random model of a kind that transformers knows."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = AutoConfig.for_model(kind, **{**SIZES, "num_hidden_layers": layers, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            # Wide enough that layers differ in what they answer.
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def load_causal(folder: Path) -> Any:
    """The model as plain transformers loads it; nothing may be missing or left over."""
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@torch.no_grad()
def logits(model: Any, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    return model(input_ids=tokens, use_cache=False).logits


@torch.no_grad()
def written(model: Any, cache: bool, count: int = 8) -> list[list[int]]:
    """Greedily written tokens, with the cache of keys and values or without."""
    mask = torch.ones_like(TOKENS)
    found = model.generate(
        input_ids=TOKENS, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False,
        use_cache=cache,
    )  # fmt: skip
    return found.tolist()


def merged(out: Path, overrides: Sequence[str]) -> Path:
    """Merge by a recipe as the command line does."""
    from fusionbench.compat import load_stages

    merge_stages(load_stages(None, list(overrides)), out)
    return out
