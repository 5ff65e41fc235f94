"""Texts as tokens and back, for models that read and write them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fusionbench.errors import CheckpointError
from fusionbench.families.tokens import TokenProcessor, read_token_processor, tokenizer_in
from fusionbench.weights.headers import Source


@dataclass(frozen=True, slots=True)
class TextCodec:
    """A tokenizer, and the tokens that mean something to a model that writes.

    Attributes:
        processor: how texts become tokens.
        start: the token with which a decoder begins.
        end: the token that ends a text.
        continues: whether an answer goes on with the question, as in decoder-only models, instead of being a text of
            its own.
    """

    processor: TokenProcessor
    start: int
    end: int
    continues: bool = False

    @property
    def pad(self) -> int:
        """The token that fills a batch."""
        return self.processor.pad

    @property
    def digest(self) -> str:
        """Of the tokenizer's files, and of how answers are read."""
        return f"{self.processor.digest} {self.end} continues" if self.continues else self.processor.digest

    def encode(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Return each text's tokens, with those that the tokenizer adds, cut to `length`."""
        found = [tokens["input_ids"] for tokens in replace(self.processor, length=length).prepare(texts)]
        # A text that goes on needs something to go on from.
        return [line or [self.end] for line in found] if self.continues else found

    def encode_answers(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Return the tokens of texts that are to be written, with the token that ends them, cut to `length`."""
        if not self.continues:
            return self.encode(texts, length)
        tokenizer = tokenizer_in(self.processor.folder)
        found = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [[*line, self.end][:length] for line in found]

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Return tokens as texts without the special ones."""
        tokenizer = tokenizer_in(self.processor.folder)
        texts: list[str] = tokenizer.batch_decode([list(line) for line in tokens], skip_special_tokens=True)
        return texts


def read_text_codec(source: Source) -> TextCodec:
    """Return the codec of a checkpoint: T5's tokens where its configuration names no others.

    Raises:
        CheckpointError: where its folder holds no tokenizer.
    """
    processor = read_token_processor(source)
    config = source.config
    pad, start = int(config.get("pad_token_id", 0)), config.get("decoder_start_token_id")
    first = pad if start is None else int(start)
    return TextCodec(replace(processor, pad=pad), first, int(config.get("eos_token_id", 1)))


def read_continuing_codec(source: Source) -> TextCodec:
    """Return the codec of a decoder-only checkpoint; without a padding token of its own, the end's fills batches.

    Raises:
        CheckpointError: where its folder holds no tokenizer, or its tokenizer has no token that ends a text.
    """
    processor = read_token_processor(source)
    end = tokenizer_in(processor.folder).eos_token_id
    if end is None:
        raise CheckpointError(
            f"The tokenizer in {processor.folder} has no token that ends a text, by which an answer ends. "
            "Name one as eos_token in its tokenizer_config.json."
        )
    pad = source.config.get("pad_token_id")
    filler = pad if isinstance(pad, int) and pad >= 0 else int(end)
    return TextCodec(replace(processor, pad=filler), filler, int(end), continues=True)
