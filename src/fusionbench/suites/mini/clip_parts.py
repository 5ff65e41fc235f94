"""What `mini/clip` is built of: images with words, and a CLIP pretrained on them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusionbench.suites.array_task import write_split
from fusionbench.suites.images import (
    SPLITS,
    TASKS,
    ImageSplit,
    ImageTaskData,
    SplitName,
    captions,
    make_broad,
    make_task,
    prompts,
)
from fusionbench.suites.images.captions import caption
from fusionbench.suites.mini.assembly import Parts
from fusionbench.suites.mini.pretraining import pretrain
from fusionbench.suites.mini.recipe import MiniClipRecipe, TaskImages
from fusionbench.suites.registration import Progress
from fusionbench.training import Loop

TASKS_FILE = "tasks.json"
FACTS = ("domain", "classes", "real", "source", "licence")


def make_clip_images(place: Path, recipe: MiniClipRecipe, seed: int, progress: Progress | None) -> None:
    """Write the images of all tasks as arrays, and what is known of each task."""
    make_images(place, TASKS, recipe.images, seed, progress)


def make_images(place: Path, names: Sequence[str], images: TaskImages, seed: int, progress: Progress | None) -> None:
    """Write the images of tasks as arrays, and what is known of each task."""
    facts = {}
    for number, name in enumerate(names, start=1):
        made = make_task(name, seed=seed, train=images.train, validation=images.validation, test=images.test)
        for split in SPLITS:
            write_split(place / name, split, getattr(made, split).images, getattr(made, split).labels)
        facts[name] = {key: getattr(made, key) for key in FACTS}
        if progress:
            progress("images", number, len(names))
    (place / TASKS_FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def read_tasks(place: Path) -> dict[str, ImageTaskData]:
    """Return what `make_images` wrote, the arrays mapped."""

    def split(name: str, part: SplitName) -> ImageSplit:
        images, labels = (np.load(place / name / f"{part}_{kind}.npy", mmap_mode="r") for kind in ("images", "labels"))
        return ImageSplit(images, labels)

    facts = json.loads((place / TASKS_FILE).read_text())
    return {
        name: ImageTaskData(
            name=name,
            domain=fact["domain"],
            classes=tuple(fact["classes"]),
            train=split(name, "train"),
            validation=split(name, "validation"),
            test=split(name, "test"),
            real=fact["real"],
            source=fact["source"],
            licence=fact["licence"],
        )
        for name, fact in facts.items()
    }


def describe(data: Path) -> dict[str, dict[str, Any]]:
    """Return each task as a suite's YAML describes it."""
    return {
        task: {
            "kind": "image_arrays",
            "dataset": f"./data/{task}",
            "class_names": list(made.classes),
            "templates": [caption(made.domain, "{}")],
        }
        for task, made in read_tasks(data).items()
    }


def make_base(place: Path, data: Path, recipe: MiniClipRecipe, seed: int, loop: Loop) -> None:
    """Pretrain both towers on the tasks' training images and a broad mixture, with captions that are often wrong."""
    tasks, images = read_tasks(data), recipe.images
    broad, broad_captions = make_broad(seed=seed, emoji=images.emoji, signs=images.signs, fashion=images.fashion)
    said = [
        words
        for task in tasks.values()
        for words in captions(task, seed=seed, alias_share=images.alias_share, right_share=images.right_share)
    ]
    pretrain(
        np.concatenate([*(task.train.images for task in tasks.values()), broad]),
        [*said, *broad_captions],
        [prompt for task in tasks.values() for prompt in prompts(task)],
        place,
        towers=recipe.towers,
        training=recipe.pretraining,
        seed=seed,
        loop=loop,
    )


def digests(data: Path) -> Mapping[str, Mapping[str, str]]:
    """Return a digest of each split's images and labels."""
    return {name: {part: _digest(getattr(task, part)) for part in SPLITS} for name, task in read_tasks(data).items()}


def notes(data: Path) -> list[str]:
    """Say which tasks hold no recorded images."""
    drawn = [name for name, task in read_tasks(data).items() if not task.real]
    return [f"The images of {', '.join(drawn)} are drawn or rendered by code, not recorded."]


def _digest(split: ImageSplit) -> str:
    hasher = hashlib.sha256()
    for array in (split.images, split.labels):
        hasher.update(repr((array.shape, str(array.dtype))).encode())
        hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()


PARTS = Parts(make_clip_images, describe, make_base, digests, notes, family="clip")
