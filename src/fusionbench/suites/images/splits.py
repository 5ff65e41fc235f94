"""What an image task is: three disjoint splits, its words, and where the images come from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fusionbench.suites.images.streams import stream

SIDE = 32
"""Height and width of every task image, in pixels."""

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
FULL_SIZES: Mapping[SplitName, int] = {"train": 4000, "validation": 500, "test": 1000}


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """Labelled images.

    Attributes:
        images: (examples, 32, 32, 3), uint8.
        labels: (examples,), int64, indices into the task's classes.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageTaskData:
    """One image classification task.

    Attributes:
        name: Name in `TASKS`.
        domain: The word or words that captions and prompts use for the kind of image, e.g. "handwritten digit".
        classes: Words for the labels, in label order; several words to a class are separated by blanks.
        train: Images to pretrain and fine-tune on.
        validation: Images to choose hyper-parameters on.
        test: Images to report on.
        real: True where the images were recorded from the world (scans, photographs), False where they were drawn or
            rendered here.
        source: Package or procedure the images come from, and how the splits are kept apart.
        licence: Licence of the source.
    """

    name: str
    domain: str
    classes: tuple[str, ...]
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    real: bool
    source: str
    licence: str


@dataclass(frozen=True)
class ImageRecipe:
    """How a task's splits are drawn; the fields that `ImageTaskData` shares with it mean the same.

    Attributes:
        draw: Split name, number of images and random stream to the split.
        sizes: Full size of each split.
        bounded: True where the source has no more images than `sizes`; elsewhere more are drawn on demand.
    """

    domain: str
    classes: tuple[str, ...]
    draw: Callable[[SplitName, int, np.random.Generator], ImageSplit]
    real: bool
    source: str
    licence: str
    sizes: Mapping[SplitName, int]
    bounded: bool = False


def partition(name: str, total: int, sizes: Mapping[SplitName, int]) -> dict[SplitName, NDArray[np.int64]]:
    """Divide the items of a source between the splits.

    The division depends on the task alone, not on the seed: whatever seed a model was trained under, the test items
    of another seed are new to it too.

    Args:
        name: The task.
        total: Number of items (images, scans or fonts) in the source.
        sizes: Items to each split; items beyond their sum go to no split.

    Returns:
        Item indices by split, disjoint.
    """
    order = stream(name, "partition").permutation(total).astype(np.int64)
    ends = np.cumsum([sizes[split] for split in SPLITS])
    return dict(zip(SPLITS, np.split(order[: ends[-1]], ends[:-1]), strict=True))
