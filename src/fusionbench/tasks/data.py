"""Labelled images by split: where they come from, and the file that each split is prepared into once."""

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from fusionbench.cache import cache_folder
from fusionbench.errors import ConfigError
from fusionbench.families import ImageProcessor
from fusionbench.weights.partial import settle, written_to

FORMAT = 1
"""Raised when the same inputs are prepared into other bytes, so that older files are not used again."""
Labels = NDArray[np.int64]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RawSplit:
    """A split as its source has it; nothing of it is in memory.

    Attributes:
        digest: of the content; two splits of one digest are the same.
        count: number of examples.
        read: returns the images one after another, PIL images or uint8 arrays, and their labels, `(count,)`. Called
            only where the split has not been prepared before.
    """

    digest: str
    count: int
    read: Callable[[], tuple[Iterable[Any], Labels]]


class PreparedSplit(NamedTuple):
    """Images as bytes of the model's size, mapped from a file, and their labels.

    Attributes:
        images: `(examples, size, size, 3)`, uint8; not to be written.
        labels: `(examples,)`, int64.
    """

    images: NDArray[np.uint8]
    labels: Labels


class Corruption(NamedTuple):
    """A change of images before they are prepared, to see how a model stands it.

    Attributes:
        label: what it is, with its severity and seed; part of the prepared file's key.
        apply: from an image of the data set, `(height, width, 3)`, and its index in the split to an image.
    """

    label: str
    apply: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]


def from_arrays(images: NDArray[np.uint8], labels: NDArray[Any]) -> RawSplit:
    """Return a split of arrays in memory.

    Args:
        images: `(examples, height, width, 3)`, or without the last dimension where they are grey; uint8.
        labels: `(examples,)`, integers.

    Raises:
        ConfigError: where the shapes or the kinds of number are others.
    """
    fits = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)
    if not fits or images.dtype != np.uint8 or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ConfigError(
            f"Images of {images.dtype} {list(images.shape)} with labels of {labels.dtype} {list(labels.shape)} make no "
            "split. It takes uint8 images [examples, height, width, 3] and one integer label each."
        )
    hasher = hashlib.sha256(repr((images.shape, labels.shape)).encode())
    for array in (images, labels.astype(np.int64)):
        hasher.update(np.ascontiguousarray(array).data)
    return RawSplit(f"sha256:{hasher.hexdigest()}", len(images), lambda: (images, labels.astype(np.int64)))


def prepare(raw: RawSplit, processor: ImageProcessor, corruption: Corruption | None = None) -> PreparedSplit:
    """Return a split as the model takes it; the work is done once and kept under the cache folder.

    Several processes may ask for one split at the same time: one prepares it, the others wait.

    Raises:
        OutputError: where the cache's disk is full or cannot be written.
    """
    label = corruption.label if corruption else ""
    key = hashlib.sha256(repr((FORMAT, raw.digest, processor.key, label)).encode()).hexdigest()
    place = cache_folder("splits") / f"{key}.npy"
    if not place.is_file():
        with FileLock(place.with_suffix(".lock")), written_to(place.parent):
            if not place.is_file():
                logger.info("preparing %d images into %s", raw.count, place)
                _write(raw, processor, corruption, place)
    return PreparedSplit(np.load(place, mmap_mode="r"), np.load(_labels_of(place)))


def _labels_of(place: Path) -> Path:
    return place.with_suffix(".labels.npy")


def _write(raw: RawSplit, processor: ImageProcessor, corruption: Corruption | None, place: Path) -> None:
    """Write labels and images; the images' file takes its name last, so that its being there means that all is."""
    images, labels = raw.read()
    save_array(labels, _labels_of(place))
    partial = place.with_suffix(".partial")
    shape = (raw.count, processor.size, processor.size, 3)
    prepared = open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    for index, image in zip(range(raw.count), images, strict=True):
        prepared[index] = processor.prepare(corruption.apply(_in_colour(image), index) if corruption else image)
    prepared.flush()
    settle(partial, place)


def save_array(array: NDArray[Any], place: Path) -> None:
    """Write an array's file, which takes its name when it is whole and on disk."""
    partial = place.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.save(stream, array)
    settle(partial, place)


def _in_colour(image: Any) -> NDArray[np.uint8]:
    """Return an image, PIL's or an array that may be grey, as `(height, width, 3)`."""
    array: NDArray[np.uint8] = image if isinstance(image, np.ndarray) else np.asarray(image.convert("RGB"))
    return array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2)


def check_labels(task: str, split: str, labels: Labels, classes: int) -> None:
    """Refuse labels that are no index of a class.

    Raises:
        ConfigError: with the first wrong label.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise ConfigError(
            f"{task}: example {wrong[0]} of the split {split!r} has the label {labels[wrong[0]]}, but the task has "
            f"{classes} classes (0 to {classes - 1}). Give all class_names in the order of the labels, or choose a "
            "split that is labelled."
        )
