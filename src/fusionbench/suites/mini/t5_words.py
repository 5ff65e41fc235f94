"""A tokenizer of words that gives back the texts that it was given, in the Hugging Face form."""

from collections.abc import Iterable, Sequence
from typing import Any

PAD, END, UNKNOWN = 0, 1, 2
SPECIAL = {"<pad>": PAD, "</s>": END, "<unk>": UNKNOWN}
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(8))
"""They stand for the spans that span corruption takes out, as T5's (arXiv:1910.10683, §3.1.4)."""
LENGTH = 128


def _pieces() -> Any:
    """Return what cuts texts: at blanks, around punctuation, and between digits."""
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )


def vocabulary(texts: Iterable[str], last: Sequence[str] = SENTINELS) -> dict[str, int]:
    """Return the number of every piece: the special ones, those of the texts in alphabetical order, the last ones."""
    cut = _pieces()
    found = {piece for text in set(texts) for piece, _ in cut.pre_tokenize_str(text)}
    ordered = sorted(found - {*SPECIAL, *last})
    return {piece: number for number, piece in enumerate([*SPECIAL, *ordered, *last])}


def make_tokenizer(pieces: dict[str, int], form: str = "$A </s>") -> Any:
    """Return the tokenizer, which cuts texts to 128 tokens; `form` says where `</s>` stands, by default at the end."""
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(WordLevel(pieces, unk_token="<unk>"))
    core.pre_tokenizer = _pieces()
    core.decoder = decoders.Metaspace()
    core.post_processor = TemplateProcessing(single=form, special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=[piece for piece in SENTINELS if piece in pieces],
        model_max_length=LENGTH,
    )
