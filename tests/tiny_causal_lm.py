"""A tiny Llama with a tokenizer of words, for tests of several packages."""

from pathlib import Path

import pytest

from tiny_t5 import TEXT

__all__ = ["MICRO", "causal_lm_folder", "make_causal_lm"]

STEPS = {"steps": 3, "batch": 4, "learning_rate": 1e-2}
MICRO = {
    "texts": {"train": 24, "validation": 6, "test": 11, "plain": 24},
    "network": {"width": 16, "depth": 2, "heads": 4, "feedforward": 24},
    "pretraining": {"steps": 4, "batch": 4, "warmup": 2},
    "experts": STEPS,
    "mtl": STEPS,
}
"""A size of `mini/causal_lm` that is built in a second."""


def make_causal_lm(folder: Path, seed: int = 0, *, form: str = "</s> $A", **changes) -> None:
    """Write a random `LlamaForCausalLM` and its tokenizer, which puts `</s>` where `form` says."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = sorted({"▁" + word for word in TEXT.split()} | {"▁"})
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: place for place, word in enumerate(words, start=3)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.post_processor = processors.TemplateProcessing(single=form, special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "tie_word_embeddings": True, "initializer_range": 0.5}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = LlamaConfig(vocab_size=len(vocabulary), **(sizes | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def causal_lm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("causal-lm") / "base"
    make_causal_lm(folder)
    return folder
