"""A suite of two noisy image tasks and three tiny CLIPs, as a YAML, so that a run takes a second."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from fusionbench.config import Recipe
from tiny_clip import cache, clip_folder, make_clip, noise, other_clip_folder
from tiny_texts import gpt2_folder

__all__ = ["cache", "clip_folder", "gpt2_folder", "other_clip_folder"]
SPLITS = {"train": 8, "validation": 8, "test": 12}
Make = Callable[..., Recipe]


def make_task(folder: Path, seed: int) -> dict[str, object]:
    """Random images of two classes, saved to disk, and the task's description."""
    made = {}
    for number, (split, count) in enumerate(SPLITS.items()):
        images = [Image.fromarray(image) for image in noise(count, seed=10 * seed + number)]
        labels = np.random.default_rng(seed).integers(0, 2, count).tolist()
        made[split] = datasets.Dataset.from_dict({"image": images, "label": labels})
    datasets.DatasetDict(made).save_to_disk(folder)
    return {"dataset": str(folder), "class_names": ["cat", "dog"], "templates": ["a photo of a {}"]}


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path, other_clip_folder: Path) -> Path:
    """The suite's folder; not to be changed."""
    root = tmp_path_factory.mktemp("suite")
    shutil.copytree(clip_folder, root / "base")
    shutil.copytree(other_clip_folder, root / "cats")
    make_clip(root / "dogs", seed=2)
    tasks = {name: make_task(root / f"{name}-data", seed) for seed, name in enumerate(("cats", "dogs"))}
    for name in tasks:
        scores = {name: {"test": {"loss": 9.0, "accuracy": 0.5}}}
        (root / name / "fusionbench.json").write_text(json.dumps({"scores": scores}))
    pool = {"base": "./base", "experts": {"cats": "./cats", "dogs": "./dogs"}}
    (root / "suite.yaml").write_text(json.dumps({"name": "noise", "pool": pool, "tasks": tasks}))
    return root


@pytest.fixture
def suite(planted: Path, tmp_path: Path, cache: Path) -> Path:
    """The suite's YAML, in a copy of the test's own."""
    shutil.copytree(planted, tmp_path / "suite")
    return tmp_path / "suite" / "suite.yaml"


@pytest.fixture
def recipe(suite: Path) -> Make:
    """Return a recipe on the suite."""

    def made(method: str, *overrides: str) -> Recipe:
        return Recipe.load(None, [f"suite={suite}", f"method={method}", "runtime.threads=1", *overrides])

    return made
