"""The building of `mini/clip`: images, pretraining, experts, manifest; each part is kept when it is whole."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fusionbench.families import load_module
from fusionbench.finetune.folder import RECORD
from fusionbench.finetune.tune import score
from fusionbench.suites.array_task import write_split
from fusionbench.suites.building import stage
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
from fusionbench.suites.load import load_suite
from fusionbench.suites.mini.clip import MANIFEST, digest
from fusionbench.suites.mini.pretraining import pretrain
from fusionbench.suites.mini.recipe import Images, MiniClipRecipe
from fusionbench.suites.model import Suite
from fusionbench.suites.registration import Progress
from fusionbench.suites.tasks import family_of, open_tasks
from fusionbench.suites.tuning import MTL
from fusionbench.suites.workers import Job, Work, one_thread, run_beside, run_here
from fusionbench.training import Loop
from fusionbench.training.checkpoint import CURVE
from fusionbench.weights.sources import open_source

FEW_STEPS = 1000
"""Fine-tunings of so few steps in all are over before a process has started."""
PROCESSES = 2
CHECKPOINT_EVERY = 500
TASKS_FILE = "tasks.json"
FACTS = ("domain", "classes", "real", "source", "licence")


def build(
    folder: Path, recipe: MiniClipRecipe, *, seed: int, progress: Progress | None, about: Mapping[str, Any]
) -> None:
    """Fill a folder with the suite; what is there already is not made again.

    Args:
        folder: the working folder.
        recipe: of the size.
        seed: of images, captions, weights and batches.
        progress: told what goes on.
        about: name, version and size, for the manifest.
    """
    stage(folder / "data", lambda place: _make_images(place, recipe.images, seed, progress))
    tasks = _read_tasks(folder / "data")
    (folder / "suite.yaml").write_text(_describe(str(about["name"]), tasks).to_yaml())
    stage(folder / "base", lambda place: _pretrain(place, tasks, recipe, seed, progress))
    suite = load_suite(folder / "suite.yaml").suite
    _tune(suite, folder / "experts", recipe, seed, progress)
    _write_manifest(folder, suite, tasks, {**about, "seed": seed, "recipe": recipe.model_dump(mode="json")})
    shutil.rmtree(folder / "training", ignore_errors=True)
    for lock in folder.glob("experts/*.lock"):
        lock.unlink()


def _make_images(place: Path, images: Images, seed: int, progress: Progress | None) -> None:
    facts = {}
    for number, name in enumerate(TASKS, start=1):
        made = make_task(name, seed=seed, train=images.train, validation=images.validation, test=images.test)
        for split in SPLITS:
            write_split(place / name, split, getattr(made, split).images, getattr(made, split).labels)
        facts[name] = {key: getattr(made, key) for key in FACTS}
        if progress:
            progress("images", number, len(TASKS))
    (place / TASKS_FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def _read_tasks(place: Path) -> dict[str, ImageTaskData]:
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


def _describe(name: str, tasks: Mapping[str, ImageTaskData]) -> Suite:
    """Return the suite with paths relative to its own folder."""
    return Suite.read(
        {
            "name": name,
            "pool": {
                "base": "./base",
                "experts": {task: f"./experts/{task}" for task in tasks},
                "family": "clip",
                "mtl": f"./experts/{MTL}",
            },
            "tasks": {
                task: {
                    "kind": "image_arrays",
                    "dataset": f"./data/{task}",
                    "class_names": list(data.classes),
                    "templates": [caption(data.domain, "{}")],
                }
                for task, data in tasks.items()
            },
        },
        f"The suite {name}",
    )


def _pretrain(
    place: Path, tasks: Mapping[str, ImageTaskData], recipe: MiniClipRecipe, seed: int, progress: Progress | None
) -> None:
    knobs = recipe.images
    broad, broad_captions = make_broad(seed=seed, emoji=knobs.emoji, signs=knobs.signs, fashion=knobs.fashion)
    said = [
        words
        for task in tasks.values()
        for words in captions(task, seed=seed, alias_share=knobs.alias_share, right_share=knobs.right_share)
    ]
    training = place.parent / "training"
    with one_thread():
        pretrain(
            np.concatenate([*(task.train.images for task in tasks.values()), broad]),
            [*said, *broad_captions],
            [prompt for task in tasks.values() for prompt in prompts(task)],
            place,
            towers=recipe.towers,
            training=recipe.pretraining,
            seed=seed,
            loop=Loop(training, checkpoint_every=CHECKPOINT_EVERY, log_every=50, progress=progress),
        )
    shutil.copyfile(training / "pretraining" / CURVE, place / CURVE)


def _tune(suite: Suite, out: Path, recipe: MiniClipRecipe, seed: int, progress: Progress | None) -> None:
    experts, mtl = (settings.model_copy(update={"seed": seed}) for settings in (recipe.experts, recipe.mtl))
    every = Job(name=MTL, tasks=suite.seen, recipe=mtl)
    work = Work(suite=suite, out=out, jobs=(every, *(Job(name=n, tasks=(n,), recipe=experts) for n in suite.seen)))
    if work.steps <= FEW_STEPS:
        run_here(work, progress)
    else:
        run_beside(work, min(PROCESSES, os.cpu_count() or 1), progress)


def _write_manifest(folder: Path, suite: Suite, tasks: Mapping[str, ImageTaskData], about: Mapping[str, Any]) -> None:
    """Write what was built of what, with the accuracies of the models on their test splits."""
    arrays = {name: {part: _digest(getattr(task, part)) for part in SPLITS} for name, task in tasks.items()}
    base = open_source(str(suite.pool.base))
    family = family_of(suite, base)
    module = load_module(family, base)
    opened = open_tasks(suite, base=base)
    records = {name: json.loads((folder / "experts" / name / RECORD).read_text()) for name in (*suite.seen, MTL)}
    with one_thread():
        pretrained = {name: score(module, task, "test") for name, task in opened.items()}
    drawn = [name for name, task in tasks.items() if not task.real]
    manifest = {
        **about,
        "build": f"{about['size']}-{about['seed']}-{digest({**about, 'arrays': arrays})[:16]}",
        "arrays": arrays,
        "scores": {
            "pretrained": pretrained,
            "individual": {name: records[name]["scores"][name]["test"] for name in suite.seen},
            "traditional_mtl": {name: records[MTL]["scores"][name]["test"] for name in suite.seen},
        },
        "notes": [f"The images of {', '.join(drawn)} are drawn or rendered by code, not recorded."],
        "made_with": {package: version(package) for package in ("torch", "transformers", "numpy")},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _digest(split: ImageSplit) -> str:
    hasher = hashlib.sha256()
    for array in (split.images, split.labels):
        hasher.update(repr((array.shape, str(array.dtype))).encode())
        hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()
