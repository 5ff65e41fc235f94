"""Images with a target at every pixel, by split: arrays of whole splits, or NYUv2's packaging, one file an image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import ConfigError, MissingData
from fusionbench.tasks.base import Split
from fusionbench.tasks.dense_kinds import IGNORED, DenseKind
from fusionbench.tasks.order import Indices, permutation

PACKAGED_SPLITS: Mapping[Split, str] = {"train": "train", "test": "val"}
VALIDATION_SHARE = 0.1
"""Of the packaged training images, drawn with seed 0; the published experts were trained on them too."""
IMAGE_DIMENSIONS = 3


@dataclass(frozen=True, slots=True)
class DenseSplit:
    """A split of which nothing is in memory.

    Attributes:
        count: number of examples.
        read: from indices to images `(n, h, w, 3)`, uint8 or floats in [0, 1], and targets `(n, h, w)` or
            `(n, h, w, 3)`.
    """

    count: int
    read: Callable[[Indices], tuple[NDArray[Any], NDArray[Any]]]


def read_dense_splits(folder: Path, kind: DenseKind) -> dict[Split, DenseSplit]:
    """Return the splits of a folder for one kind of task.

    The folder holds `<split>_images.npy` and `<split>_<kind>.npy` for train, validation and test; or, as NYUv2 is
    packaged for multi-task learning (arXiv:1803.10704), `{train,val}/{image,label,depth,normal}/<i>.npy`, of which val
    is the test split and a tenth of train, drawn with seed 0, the validation split.

    Raises:
        MissingData: where it holds neither, or images without targets.
        ConfigError: where their sizes differ.
    """
    found: dict[Split, DenseSplit] = {}
    for split in get_args(Split):
        if (folder / f"{split}_images.npy").is_file():
            found[split] = _of_arrays(folder, split, kind)
    if not found:
        found = {
            split: _of_files(folder / name, kind) for split, name in PACKAGED_SPLITS.items() if (folder / name).is_dir()
        }
        if "train" in found:
            found["validation"] = _tenth(found["train"])
    if not found:
        raise MissingData(
            f"{folder} holds no split of scenes. It needs test_images.npy (examples, height, width, 3) and "
            f"test_{kind.name}.npy beside it, or folders val/image and val/{kind.packaged} with one .npy file a scene."
        )
    return found


def _of_arrays(folder: Path, split: Split, kind: DenseKind) -> DenseSplit:
    images, targets = (_load(folder / f"{split}_{part}.npy", mapped=True) for part in ("images", kind.name))
    if images.ndim != IMAGE_DIMENSIONS + 1 or images.shape[-1] != 3:
        raise ConfigError(
            f"{folder}: {split}_images.npy is {list(images.shape)}; images should be [examples, height, width, 3]."
        )
    if images.shape[:3] != targets.shape[:3]:
        raise ConfigError(
            f"{folder}: {split}_images.npy is {list(images.shape)}, {split}_{kind.name}.npy {list(targets.shape)}; "
            "each pixel needs a target. Both should begin with the same [examples, height, width]."
        )
    return DenseSplit(len(images), lambda chosen: (np.asarray(images[chosen]), np.asarray(targets[chosen])))


def _of_files(folder: Path, kind: DenseKind) -> DenseSplit:
    names = sorted((path.stem for path in (folder / "image").glob("*.npy")), key=_number)
    absent = [name for name in names if not (folder / kind.packaged / f"{name}.npy").is_file()]
    if not names or absent:
        raise MissingData(
            f"{folder} has {len(names)} images (image/<number>.npy) and lacks "
            f"{kind.packaged}/{(absent or ['0'])[0]}.npy. Each image needs a file of targets of the same number."
        )

    def read(chosen: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        images = [_load(folder / "image" / f"{names[i]}.npy") for i in chosen]
        targets = [_load(folder / kind.packaged / f"{names[i]}.npy") for i in chosen]
        # Depth is packaged as (1, h, w) or (h, w, 1).
        flat = [
            t.reshape(t.shape[-2:] if t.shape[0] == 1 else t.shape[:2]) if kind.name == "depth" else t for t in targets
        ]
        return np.stack(images), np.stack(flat)

    return DenseSplit(len(names), read)


def _tenth(train: DenseSplit) -> DenseSplit:
    chosen = np.sort(
        permutation("validation", train.count, seed=0, epoch=0)[: max(1, int(train.count * VALIDATION_SHARE))]
    )
    return DenseSplit(len(chosen), lambda indices: train.read(chosen[indices]))


def _number(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (0, name)


def _load(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MissingData(f"{path} cannot be read: {error}.") from None
    return array


def checked_targets(task: str, split: str, kind: DenseKind, targets: NDArray[Any], classes: int) -> NDArray[Any]:
    """Return targets in the kind of number that their loss takes.

    Raises:
        ConfigError: where a label is no class, a depth negative, a value not finite, or a shape wrong.
    """
    where = f"{task}: the targets of the split {split!r}"
    several = kind.channels is not None and len(kind.channels) > 1
    if targets.ndim != IMAGE_DIMENSIONS + several or (several and targets.shape[-1] != classes):
        form = f"[examples, height, width{f', {classes}' * several}]"
        raise ConfigError(f"{where} are {list(targets.shape)}; {kind.name} takes {form}.")
    if kind.channels is None:
        labels = targets.astype(np.int64)
        wrong = labels[(labels < IGNORED) | (labels >= classes)]
        if len(wrong):
            raise ConfigError(
                f"{where} hold the label {wrong[0]}, but the task has {classes} classes (0 to {classes - 1}; −1: "
                "ignored). Give all class_names in the order of the labels."
            )
        return labels
    values = targets.astype(np.float32)
    if not np.isfinite(values).all() or (kind.name == "depth" and bool((values < 0).any())):
        raise ConfigError(
            f"{where} hold values that are NaN, infinite or, for depths, negative. Pixels without a measurement "
            "should be 0."
        )
    return values
