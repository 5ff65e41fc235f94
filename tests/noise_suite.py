"""A suite of two noisy image tasks and three tiny CLIPs, as a folder with its YAML, so that a run takes a moment."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from tiny_clip import noise

SPLITS = {"train": 8, "validation": 8, "test": 12}


def make_task(folder: Path, seed: int) -> dict[str, object]:
    """Random images of two classes, saved to disk, and the task's description."""
    made = {}
    for number, (split, count) in enumerate(SPLITS.items()):
        images = [Image.fromarray(image) for image in noise(count, seed=10 * seed + number)]
        labels = np.random.default_rng(seed).integers(0, 2, count).tolist()
        made[split] = datasets.Dataset.from_dict({"image": images, "label": labels})
    datasets.DatasetDict(made).save_to_disk(folder)
    return {"dataset": str(folder), "class_names": ["cat", "dog"], "templates": ["a photo of a {}"]}


def make_suite(root: Path, models: Mapping[str, Path]) -> Path:
    """Write the suite into a folder and return its YAML.

    Args:
        root: an empty folder.
        models: folders of the models base, cats and dogs, which are copied.
    """
    for name, folder in models.items():
        shutil.copytree(folder, root / name)
    tasks = {name: make_task(root / f"{name}-data", seed) for seed, name in enumerate(("cats", "dogs"))}
    for name in tasks:
        scores = {name: {"test": {"loss": 9.0, "accuracy": 0.5}}}
        (root / name / "fusionbench.json").write_text(json.dumps({"scores": scores}))
    pool = {"base": "./base", "experts": {"cats": "./cats", "dogs": "./dogs"}}
    (root / "suite.yaml").write_text(json.dumps({"name": "noise", "pool": pool, "tasks": tasks}))
    return root / "suite.yaml"
