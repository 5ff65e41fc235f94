"""Stand-ins of what the papers' suites name: data under their published ids, in their columns and label orders."""

from pathlib import Path
from typing import Any

from fusionbench.suites import Suite
from fusionbench.suites.tasks import task_spec
from hub_stand_in import HubCache
from tiny_clip import noise

__all__ = ["CORRUPTED", "IMAGES", "add_image_data", "image_labels", "make_character_t5"]
CORRUPTED = ("motion_blur", "contrast")
IMAGES = 4


def image_labels(classes: int) -> list[int]:
    """Return the stand-ins' labels: the last class is among them, so that a shorter list of names is found out."""
    return [0, 1, 1, classes - 1]


def add_image_data(hub: HubCache, suite: Suite) -> None:
    """Put four random images for each task of a suite under its data set's id."""
    import datasets

    for number, task in enumerate(suite.tasks.tasks):
        spec = task_spec(suite, task)
        count = len(spec.class_names or ())
        classes = datasets.ClassLabel(num_classes=count)
        features = datasets.Features({spec.columns.image: datasets.Image(), spec.columns.label: classes})
        images = [datasets.Image().encode_example(image) for image in noise(IMAGES, seed=number)]
        rows: dict[str, Any] = {spec.columns.image: images, spec.columns.label: image_labels(count)}
        held = datasets.Dataset.from_dict(rows, features)
        names = {"train", "test"} | ({*CORRUPTED} if spec.corrupted_splits else set())
        names |= set((spec.splits or {}).values()) & {"validation"}
        hub.dataset(spec.dataset, dict.fromkeys(sorted(names), held), spec.config or "default")


def make_character_t5(folder: Path, seed: int = 0) -> None:
    """Write a random T5 (gated, its head apart, as T5 1.1 and T0) that reads letters, so that no text is unknown."""
    import string

    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    letters = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    letters |= {letter: number for number, letter in enumerate(string.printable, start=3)}
    core = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(""), "isolated")
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
    config = T5Config(
        vocab_size=len(letters), decoder_start_token_id=0, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        **sizes,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        T5ForConditionalGeneration(config).save_pretrained(folder)
