"""Tiny Llamas with tokenizers of their own, as folders."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from checkpoints import save_model


def save_worded(
    folder: Path, tensors: Mapping[str, Tensor], words: Sequence[str], config: Mapping[str, Any], template: str = ""
) -> Path:
    """Write a model and a word-level tokenizer whose tokens have the numbers of their places in `words`."""
    rows = next(tensor.shape[0] for name, tensor in tensors.items() if "embed" in name)
    save_model(folder, tensors, {**config, "vocab_size": rows})
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": w, **plain} for i, w in enumerate(words) if w.startswith("<")],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder
