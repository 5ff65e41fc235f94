"""A broad mixture of labelled images, and the supervised training of a base on it."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusionbench.suites.images import ImageTaskData
from fusionbench.suites.images.artwork import capture_others
from fusionbench.suites.images.real import fashion_rest
from fusionbench.suites.images.streams import stream
from fusionbench.suites.mini.image_recipe import Mixture, Supervised

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fusionbench.training import Loop

MEAN, DEVIATION = 0.5, 0.3
"""Pixels of 0 to 1 become (pixel − mean) / deviation, in every channel."""


class Labelled(NamedTuple):
    """Images of several sources, all classes numbered together.

    Attributes:
        images: `(examples, 32, 32, 3)`, uint8.
        labels: `(examples,)`, int64.
        classes: how many there are.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: int


def make_mixture(tasks: Mapping[str, ImageTaskData], mixture: Mixture, *, seed: int) -> Labelled:
    """Return emoji and road signs that belong to no task, and a share of the tasks' images under coarse labels.

    Fashion-MNIST images outside the splits come with their five classes. A coarse label is shared by neighbouring
    classes of a task, so that the base sees what the tasks are about and not how their classes are told apart.

    Args:
        tasks: with their training images.
        mixture: how many of each.
        seed: of captures and choices.
    """
    parts: list[tuple[NDArray[np.uint8], NDArray[np.int64]]] = []
    for name, count in (("emoji", mixture.emoji), ("signs", mixture.signs)):
        images, names = capture_others(name, count, stream(seed, "mixture", name))  # type: ignore[arg-type]
        parts.append((images, np.unique(names, return_inverse=True)[1].astype(np.int64)))
    rest = fashion_rest()
    parts.append((rest.images, rest.labels))
    for name, task in tasks.items():
        count = int(len(task.train.labels) * mixture.share)
        chosen = np.sort(stream(seed, "mixture", name).permutation(len(task.train.labels))[:count])
        parts.append((task.train.images[chosen], task.train.labels[chosen] // mixture.coarse))
    labels, classes = [], 0
    for _, own in parts:
        labels.append(own + classes)
        classes += int(own.max(initial=-1)) + 1
    return Labelled(np.concatenate([images for images, _ in parts]), np.concatenate(labels), classes)


def train_base(
    module: "nn.Module",
    features: "Callable[[Tensor], Tensor]",
    width: int,
    data: Labelled,
    training: Supervised,
    *,
    seed: int,
    loop: "Loop",
) -> None:
    """Train a module in place, with a linear layer over its features that is then dropped; ends in eval mode.

    Args:
        module: new, float32.
        features: from pixels `(examples, 3, h, w)` to `(examples, width)`, by the module.
        width: of the features.
        data: the mixture.
        training: rates, steps, batch.
        seed: of the linear layer and of the batches.
        loop: keeps the state of an unfinished training.
    """
    import torch
    from torch.nn import functional as F

    from fusionbench.training import step_of, tensors_of

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = torch.nn.Linear(width, data.classes)
    trained = torch.nn.ModuleDict({"base": module, "head": head}).train()
    optimizer = torch.optim.AdamW(
        trained.parameters(), training.learning_rate, weight_decay=training.weight_decay, fused=True
    )

    def loss(batch: "dict[str, Tensor]") -> "Tensor":
        logits = head(features(pixels_of(batch["images"])))
        return F.cross_entropy(logits, batch["labels"], label_smoothing=training.smoothing)

    def batches(start: int) -> "Iterator[dict[str, Tensor]]":
        position = start
        while True:
            chosen = stream(seed, "pretraining", position).integers(0, len(data.labels), training.batch)
            yield {"images": torch.from_numpy(data.images[chosen]), "labels": torch.from_numpy(data.labels[chosen])}
            position += 1

    loop.run("pretraining", training.course(seed), step_of(loss), batches, tensors_of(trained), optimizer)
    module.eval()


def pixels_of(images: "Tensor") -> "Tensor":
    """Return images `(examples, h, w, 3)` of bytes as a model takes them, `(examples, 3, h, w)` float32."""
    return (images.permute(0, 3, 1, 2).float() / 255 - MEAN) / DEVIATION
