"""What `mini/image` is built of: images with labels, and a ResNet trained on a broad mixture."""

from pathlib import Path
from typing import Any

from fusionbench.suites.images import SIDE
from fusionbench.suites.mini.assembly import Parts
from fusionbench.suites.mini.clip_parts import digests, make_images, notes, read_tasks
from fusionbench.suites.mini.image_recipe import Backbone, MiniImageRecipe
from fusionbench.suites.mini.mixture import DEVIATION, MEAN, make_mixture, train_base
from fusionbench.suites.mini.saving import save_quietly
from fusionbench.suites.mini.words import write_image_processor
from fusionbench.suites.registration import Progress
from fusionbench.training import Loop


def make_data(place: Path, recipe: MiniImageRecipe, seed: int, progress: Progress | None) -> None:
    """Write the images of the size's tasks as arrays, and what is known of each task."""
    make_images(place, recipe.tasks, recipe.images, seed, progress)


def describe(data: Path) -> dict[str, dict[str, Any]]:
    """Return each task as a suite's YAML describes it."""
    return {
        task: {"kind": "image_class_arrays", "dataset": f"./data/{task}", "class_names": list(made.classes)}
        for task, made in read_tasks(data).items()
    }


def make_base(place: Path, data: Path, recipe: MiniImageRecipe, seed: int, loop: Loop) -> None:
    """Train a ResNet on the mixture and write it in Hugging Face form, without a head."""
    mixture = make_mixture(read_tasks(data), recipe.mixture, seed=seed)
    module = new_resnet(recipe.backbone, seed)
    width = recipe.backbone.widths[-1]
    train_base(
        module,
        lambda pixels: module(pixel_values=pixels).pooler_output.flatten(1),
        width,
        mixture,
        recipe.pretraining,
        seed=seed,
        loop=loop,
    )
    save_quietly(module, place)
    write_image_processor(place, SIDE, MEAN, DEVIATION)


def new_resnet(backbone: Backbone, seed: int) -> Any:
    """Return a ResNet with random weights of a seed."""
    import torch
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(
        embedding_size=backbone.embedding,
        hidden_sizes=list(backbone.widths),
        depths=list(backbone.depths),
        layer_type=backbone.layer,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNetModel(config)


PARTS = Parts(make_data, describe, make_base, digests, notes, family="image_classifier", trained_heads=True)
