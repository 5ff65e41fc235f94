"""Stand-ins of what the papers' suites name: models and data under published ids, in their columns and label orders."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from fusionbench.experiments.model import load_experiment
from fusionbench.experiments.reproduce import Answer, reproduce
from fusionbench.suites import Suite
from fusionbench.suites.tasks import task_spec
from hub_stand_in import HubCache
from tiny_clip import noise

__all__ = [
    "CORRUPTED",
    "IMAGES",
    "add_clip_models",
    "add_image_data",
    "answered",
    "image_labels",
    "letter_tokenizer",
    "make_character_t5",
]
FEW = {"steps": 2, "mask_steps": 2, "examples": 4, "gate_k": 2, "k": 2, "batch": 2}
"""Values of the parameters that decide how long a method takes, or that tiny models are too small for."""
VARIED: dict[str, tuple[Any, ...]] = {"tasks.corruption": (None, "motion_blur")}
"""Values of varied keys where the first and the last will not do: not every corruption has a stand-in."""
CORRUPTED = ("motion_blur", "contrast")
IMAGES = 4


def answered(name: str, out: Path, *labels: str) -> Answer:
    """Return an experiment's answer on the papers' suite, of which stand-ins are there, with few steps.

    Every row that anybody can run has to give numbers beside the printed ones.
    """
    experiment = load_experiment(name)
    rows = [row for row in experiment.rows if not labels or row.label in labels]
    for number, row in enumerate(rows):
        method = {key: FEW.get(key, value) for key, value in row.method.items()}
        select = {key: grid[:2] for key, grid in row.select.items()}
        rows[number] = row.model_copy(update={"method": method, "select": select})
    vary = {key: VARIED.get(key, (values[0], values[-1])) for key, values in experiment.vary.items()}
    answer = reproduce(experiment.model_copy(update={"rows": tuple(rows), "vary": vary}), out)
    assert answer.failed == {row.label: row.unavailable for row in rows if row.unavailable}, answer.failed
    for line in answer.lines:
        row = next((row for row in rows if row.label == line.label), None)
        assert row is None or row.printed is None or line.printed, line.label
        assert set(line.verdicts) == set(line.printed), line.label
    return answer


def image_labels(classes: int) -> list[int]:
    """Return the stand-ins' labels: the last class is among them, so that a shorter list of names is found out."""
    return [0, 1, 1, classes - 1]


def add_clip_models(hub: HubCache, suite: Suite, folder: Path) -> None:
    """Put a tiny CLIP under the id of a suite's base, and changed vision towers of it under those of its experts."""
    base = hub.model(str(suite.pool.base))
    shutil.copytree(folder, base, dirs_exist_ok=True)
    config = json.loads((base / "config.json").read_text())["vision_config"]
    tower = {key: value for key, value in load_file(base / "model.safetensors").items() if key.startswith("vision_")}
    for number, expert in enumerate(suite.pool.experts.values()):
        place = hub.model(expert.model)
        change = np.random.default_rng(number)
        own = {key: value + change.normal(scale=0.02, size=value.shape).astype("f4") for key, value in tower.items()}
        save_file(own, place / "model.safetensors")
        (place / "config.json").write_text(json.dumps({**config, "model_type": "clip_vision_model"}))


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


def letter_tokenizer(alphabet: str) -> Any:
    """Return a tokenizer that reads letters between a first and a last token, so that no two texts are alike."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "bos_token": "<bos>", "unk_token": "<unk>", "eos_token": "<eos>"}
    words = [*special.values(), *alphabet]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(""), "isolated")
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


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
