"""A tiny CLIP with everything that a real one's folder has, and tiny images, for tests of several packages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

__all__ = ["WORDS", "cache", "clip_folder", "make_clip", "noise", "other_clip_folder"]

WORDS = ("<pad>", "<bos>", "<unk>", "<eos>", "a", "photo", "drawing", "of", "cat", "dog", "red", "bird")


def noise(count: int, side: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Random images, `(count, side, side, 3)`."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def make_clip(folder: Path, seed: int, tokenizer: Any = None, positions: int = 8) -> None:
    """Write a random `CLIPModel` (32 px, patch 8, width 16), a tokenizer (of whole words) and an image processor."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = tokenizer or _whole_words()
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": positions, "pad_token_id": 0, "bos_token_id": 1}
    config = CLIPConfig(
        text_config=tower | text | {"eos_token_id": 3},
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config)
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                # Wide enough that no tensor is all zeros or ones and that images differ in their logits.
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**size, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(folder)


def _whole_words() -> Any:
    """Return a tokenizer of the few words that there are."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 3)]
    )
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "unk_token": "<unk>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("clip") / "base"
    make_clip(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def other_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another tiny CLIP of the same shape; not to be changed."""
    folder = tmp_path_factory.mktemp("clip") / "other"
    make_clip(folder, seed=1)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
