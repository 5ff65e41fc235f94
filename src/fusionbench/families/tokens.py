"""How texts become a model's input: once to token ids, then a batch at a time to padded tensors."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusionbench.errors import CheckpointError
from fusionbench.families.hugging_face import loaded
from fusionbench.weights.headers import Source

TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
LENGTH = 512
"""Most tokens of an example, as in the papers' recipes for GLUE."""
Tokens = dict[str, list[int]]
"""One example's "input_ids" and, where the tokenizer tells the two texts of a pair apart, "token_type_ids"."""


@dataclass(frozen=True, slots=True)
class TokenProcessor:
    """What a checkpoint's folder says of its texts.

    Attributes:
        folder: where the tokenizer lies.
        length: most tokens of an example; the rest is cut off.
        pad: token that fills a batch; it is masked, so that its number matters only where the model looks at it.
        digest: of the tokenizer's files.
    """

    folder: Path
    length: int
    pad: int
    digest: str

    @property
    def key(self) -> str:
        """A digest of all that decides what `prepare` returns."""
        return hashlib.sha256(f"{self.length} {self.digest}".encode()).hexdigest()

    def prepare(self, texts: Sequence[str], others: Sequence[str] | None = None) -> list[Tokens]:
        """Return texts, or pairs of texts, as token ids, cut to `length`.

        Args:
            texts: of the examples, or the first of each pair.
            others: the second of each pair; None where there are no pairs.
        """
        pairs = (list(texts),) if others is None else (list(texts), list(others))
        found = tokenizer_in(self.folder)(*pairs, truncation=True, max_length=self.length)
        names = [name for name in ("input_ids", "token_type_ids") if name in found]
        return [dict(zip(names, row, strict=True)) for row in zip(*(found[name] for name in names), strict=True)]


def read_token_processor(source: Source, length: int | None = None) -> TokenProcessor:
    """Return the processor of a checkpoint's folder.

    Args:
        source: the checkpoint, with its tokenizer beside it.
        length: most tokens of an example; None takes 512, or what the model can take where that is less.

    Raises:
        CheckpointError: where the folder holds no tokenizer.
    """
    folder = source.folder
    if folder is None or not any((folder / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(
            f"{source.label} holds no tokenizer ({', '.join(TOKENIZERS[:3])} …), which the texts of its tasks need. "
            "Save the base model's tokenizer into its folder."
        )
    hasher = hashlib.sha256()
    for name in (*TOKENIZERS, *SETTINGS):
        if (folder / name).is_file():
            hasher.update(name.encode() + (folder / name).read_bytes())
    config = source.config
    pad = next((config[key] for key in ("pad_token_id", "eos_token_id") if isinstance(config.get(key), int)), 0)
    return TokenProcessor(folder, min(length or LENGTH, _positions(config)), pad, hasher.hexdigest())


def _positions(config: Mapping[str, Any]) -> int:
    """Return how many tokens a model can take; RoBERTa's kind counts its positions from behind the padding token."""
    count = config.get("n_positions") or config.get("max_position_embeddings") or LENGTH
    offset = int(config.get("pad_token_id", 1)) + 1 if "roberta" in str(config.get("model_type")) else 0
    return int(count) - offset


def pad_together(examples: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Any]:
    """Return examples as one batch, filled up on the right to the longest.

    Args:
        examples: each with "input_ids" and, in some families, "token_type_ids"; "label" where there is one.
        pad: the token that fills.

    Returns:
        "input_ids" and "attention_mask", which is 1 where a token is real, `(examples, longest)` int64, and what
        else the examples have; "labels", `(examples,)` int64.
    """
    lengths = np.array([len(example["input_ids"]) for example in examples])
    real = np.arange(lengths.max()) < lengths[:, None]
    batch: dict[str, Any] = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
    for name, filler in (("input_ids", pad), ("token_type_ids", 0)):
        if name in examples[0]:
            rows = np.full(real.shape, filler, dtype=np.int64)
            rows[real] = np.concatenate([example[name] for example in examples])
            batch[name] = torch.from_numpy(rows)
    if "label" in examples[0]:
        batch["labels"] = torch.tensor([example["label"] for example in examples])
    return batch


@cache
def tokenizer_in(folder: Path) -> Any:
    """Return the tokenizer of a folder; loaded once, when the first text needs it."""
    from transformers import AutoTokenizer

    return loaded(AutoTokenizer, folder)
