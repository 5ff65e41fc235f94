"""A word-level tokenizer in the Hugging Face form: every word of the captions has a number of its own."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAD, BOS, UNK, EOS = 0, 1, 2, 3
SPECIAL = {"<pad>": PAD, "<s>": BOS, "<unk>": UNK, "</s>": EOS}
LENGTH = 12
"""Tokens of a caption, with the first and the last."""


def vocabulary(texts: Iterable[str]) -> dict[str, int]:
    """Return the number of every word: the special ones, then the words of the texts in alphabetical order."""
    words = sorted({word for text in texts for word in text.lower().split()} - set(SPECIAL))
    return SPECIAL | {word: number for number, word in enumerate(words, start=len(SPECIAL))}


def make_tokenizer(words: dict[str, int]) -> Any:
    """Return the tokenizer: lower case, split at blanks, `<s> … </s>`, cut to 12 tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.normalizer = Lowercase()
    core.pre_tokenizer = WhitespaceSplit()
    core.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        unk_token="<unk>",
        eos_token="</s>",
        model_max_length=LENGTH,
    )


def write_image_processor(folder: Path, side: int, mean: float, deviation: float) -> None:
    """Write the configuration of the CLIP image processor, equal for the three channels."""
    content = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [mean] * 3,
        "image_std": [deviation] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(content, indent=2) + "\n")
