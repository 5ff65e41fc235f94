"""What a decoder keeps between the tokens it writes changes nothing of what it writes."""

from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor, nn

from fusionbench.families import family_named
from fusionbench.families.causal_lm import CausalLm

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "vocab_size": 40, "max_position_embeddings": 64}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4},
}


class Counting:
    """A model that counts the tokens it runs."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.config, self.tokens = module, module.config, 0

    def __call__(self, **inputs: Any) -> Any:
        self.tokens += inputs["input_ids"].numel()
        return self.module(**inputs)


def model(kind: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **KINDS[kind], eos_token_id=39, pad_token_id=0)
    return AutoModelForCausalLM.from_config(config).eval()


def asked() -> dict[str, Tensor]:
    family = family_named("causal_lm")
    texts = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15]]
    return family.collate([{"input_ids": text} for text in texts], None)


def reference(module: nn.Module, text: list[int], tokens: int) -> list[int]:
    """Greedy decoding of one text, unpadded, whole each time."""
    said = list(text)
    for _ in range(tokens):
        said.append(int(module(input_ids=torch.tensor([said]), use_cache=False).logits[0, -1].argmax()))
        if said[-1] == 39:
            break
    return said[len(text) :]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_written_is_what_each_text_alone_and_whole_would_be_gone_on_with(kind: str) -> None:
    module, family = model(kind), CausalLm()
    batch = asked()

    written = family.decode(module, batch, 7)

    for row, mask, text in zip(written, batch["attention_mask"], batch["input_ids"], strict=True):
        expected = reference(module, text[mask.bool()].tolist(), 7)
        assert row[: len(expected)].tolist() == expected


@torch.no_grad()
def test_a_token_that_was_read_is_not_read_again() -> None:
    counting, family = Counting(model("llama")), CausalLm()
    written = family.decode(counting, asked(), 5)

    # Three questions of six places, then one token each a step.
    assert counting.tokens == 3 * 6 + 3 * (written.shape[1] - 1)


@torch.no_grad()
def test_logits_with_memory_are_those_without_behind_the_last_token() -> None:
    module, family, batch = model("gemma2"), CausalLm(), asked()
    memory: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
    given = torch.tensor([[0, 4, 5, 6], [0, 7, 8, 9], [0, 1, 2, 3]])

    for length in (1, 2, 4):
        part = {**batch, "decoder_input_ids": given[:, :length]}
        plain = family.features(module, part)[:, -1]
        kept = family.features(module, {**part, "memory": memory})[:, -1]
        torch.testing.assert_close(kept, plain)
