"""A tiny T5 with a tokenizer of words, for tests of several packages."""

from pathlib import Path

import pytest

__all__ = ["cache", "make_t5", "t5_folder"]

TEXT = (
    "Given the sentence ' good bad film day a ' , determine sentiment . Is it positive or negative ? "
    "Consider rate yes no maybe 0 1 2 3 4 5 8 one two"
)
SPECIAL = {"<pad>": 0, "</s>": 1, "<unk>": 2}


def make_t5(folder: Path, seed: int = 0, **changes) -> None:
    """Write a random `T5ForConditionalGeneration` and its tokenizer, which gives back the texts that it was given."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = sorted({piece for word in TEXT.split() for piece in (word, "▁" + word)} | {"▁"})
    vocabulary = SPECIAL | {word: number for number, word in enumerate(words, start=len(SPECIAL))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    core.decoder = decoders.Metaspace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
    config = T5Config(vocab_size=len(vocabulary), decoder_start_token_id=0, **(sizes | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        T5ForConditionalGeneration(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("t5") / "base"
    make_t5(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
