"""What `mini/scene` is built of: ray-cast rooms, and an encoder that was trained on images without rooms."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fusionbench.suites.images import make_task
from fusionbench.suites.mini.assembly import Parts
from fusionbench.suites.mini.mixture import DEVIATION, MEAN, make_mixture, train_base
from fusionbench.suites.mini.saving import save_quietly
from fusionbench.suites.mini.scene_recipe import Encoder, MiniSceneRecipe
from fusionbench.suites.mini.words import write_image_processor
from fusionbench.suites.registration import Progress
from fusionbench.suites.scenes import CLASSES, make_scenes
from fusionbench.tasks import Split
from fusionbench.training import Loop

SCENES = "scenes"
TASKS = ("segmentation", "depth", "normals")


def make_data(place: Path, recipe: MiniSceneRecipe, seed: int, progress: Progress | None) -> None:
    """Write the scenes of each split as arrays; the three tasks share them."""
    views, folder = recipe.scenes, place / SCENES
    folder.mkdir()
    for number, split in enumerate(get_args(Split), start=1):
        made = make_scenes(split, getattr(views, split), seed=seed, height=views.height, width=views.width)
        for name, array in made._asdict().items():
            np.save(folder / f"{split}_{name}.npy", array)
        if progress:
            progress("scenes", number, len(get_args(Split)))


def describe(data: Path) -> dict[str, dict[str, Any]]:  # noqa: ARG001
    """Return each task as a suite's YAML describes it."""
    named = {"segmentation": {"class_names": list(CLASSES)}}
    return {task: {"kind": task, "dataset": f"./data/{SCENES}", **named.get(task, {})} for task in TASKS}


def make_base(place: Path, data: Path, recipe: MiniSceneRecipe, seed: int, loop: Loop) -> None:  # noqa: ARG001
    """Train the encoder to tell classes of images apart, and write it in Hugging Face form."""
    images = recipe.images
    tasks = {
        name: make_task(name, seed=seed, train=images.train, validation=images.validation, test=images.test)
        for name in recipe.tasks
    }
    module = new_encoder(recipe.encoder, seed)
    train_base(
        module,
        lambda pixels: module(pixel_values=pixels).mean(dim=(2, 3)),
        4 * recipe.encoder.widths[-1],
        make_mixture(tasks, recipe.mixture, seed=seed),
        recipe.pretraining,
        seed=seed,
        loop=loop,
    )
    save_quietly(module, place)
    write_image_processor(place, recipe.scenes.height, MEAN, DEVIATION)


def new_encoder(encoder: Encoder, seed: int) -> Any:
    """Return an encoder with random weights of a seed."""
    import torch

    from fusionbench.families.scene_encoder import SceneConfig, SceneEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SceneEncoder(SceneConfig(**encoder.model_dump()))


def digests(data: Path) -> Mapping[str, str]:
    """Return a digest of each array."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((data / SCENES).glob("*.npy"))}


def notes(data: Path) -> list[str]:  # noqa: ARG001
    """Say that no scene was recorded."""
    return ["The scenes are drawn by a ray caster; depth and normals are exact."]


PARTS = Parts(make_data, describe, make_base, digests, notes, family="scene", trained_heads=True)
