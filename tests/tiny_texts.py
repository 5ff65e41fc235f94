"""A tiny GPT-2 and a tiny BERT with all that real ones' folders have, and tiny tasks of texts, for several packages."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

__all__ = ["SENTENCES", "bert_folder", "gpt2_folder", "make_bert", "make_gpt2", "make_tokenizer", "write_text_task"]

WORDS = [
    "<pad>",
    "<unk>",
    "<cls>",
    "<sep>",
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "runs",
    "sleeps",
    "is",
    "good",
    "bad",
    "very",
]
SENTENCES = (
    "the cat is good",
    "a dog is bad",
    "the bird is very good",
    "the dog is very bad",
    "a cat runs",
    "a bird sleeps",
)


def make_tokenizer(folder: Path, *, pairs: bool) -> None:
    """Write a word-level tokenizer; with `pairs` one that frames texts and tells the second of two apart, as BERT's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "attention_mask"]
    if pairs:
        core.post_processor = processors.TemplateProcessing(
            single="<cls> $A <sep>", pair="<cls> $A <sep> $B:1 <sep>:1", special_tokens=[("<cls>", 2), ("<sep>", 3)]
        )
        names.append("token_type_ids")
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", model_input_names=names
    ).save_pretrained(folder)


def _write(model: Any, folder: Path) -> None:
    import torch

    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)


def make_gpt2(folder: Path, seed: int = 0) -> None:
    """Write a random `GPT2Model` (width 16, two blocks) with its tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2Model
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        special = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
        config = GPT2Config(vocab_size=len(WORDS), n_positions=32, n_embd=16, n_layer=2, n_head=2, **special)
        _write(GPT2Model(config), folder)
    make_tokenizer(folder, pairs=False)


def make_bert(folder: Path, seed: int = 0) -> None:
    """Write a random `BertModel` (width 16, two blocks) with its tokenizer."""
    import torch
    from transformers import BertConfig, BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _write(BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **size)), folder)
    make_tokenizer(folder, pairs=True)


def write_text_task(folder: Path, *, copies: int = 4, texts: Sequence[str] = SENTENCES) -> Path:
    """Write train, validation and test as JSON lines: is "good" in the sentence?"""
    folder.mkdir(parents=True)
    lines = [json.dumps({"text": text, "label": int("good" in text)}) for text in texts] * copies
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("gpt2") / "base"
    make_gpt2(folder)
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("bert") / "base"
    make_bert(folder)
    return folder
