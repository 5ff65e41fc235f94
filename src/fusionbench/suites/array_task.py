"""Image tasks whose splits are NumPy arrays in a folder: what the suites built here write, and users may write too."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fusionbench.errors import ConfigError, MissingData
from fusionbench.families import Family
from fusionbench.tasks import (
    ImageTask,
    RawSplit,
    Split,
    TaskSpec,
    from_arrays,
    open_vocabulary_task,
    task,
)
from fusionbench.tasks.classification import ClassificationTask
from fusionbench.tasks.image_classes import image_classification
from fusionbench.tasks.metrics import CLASSIFIED, chosen_metrics
from fusionbench.tasks.spec import refuse_unused
from fusionbench.weights.headers import Source


def write_split(folder: Path, split: Split, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Write one split into a task's folder: `<split>_images.npy` and `<split>_labels.npy`.

    Args:
        folder: the task's.
        split: which.
        images: `(examples, height, width, 3)`, or without the last dimension where they are grey.
        labels: `(examples,)`, each the index of a class name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{split}_images.npy", images)
    np.save(folder / f"{split}_labels.npy", labels)


def read_splits(folder: Path) -> dict[Split, RawSplit]:
    """Return the splits that a folder holds; the images are mapped, not read.

    Raises:
        MissingData: where it holds none, or images without labels.
        ConfigError: where the arrays make no split.
    """
    found: dict[Split, RawSplit] = {}
    for split in get_args(Split):
        if (folder / f"{split}_images.npy").is_file():
            images, labels = (_load(folder / f"{split}_{part}.npy") for part in ("images", "labels"))
            found[split] = from_arrays(images, labels)
    if not found:
        raise MissingData(
            f"{folder} holds no split. It needs test_images.npy (examples, height, width, 3; uint8) and "
            "test_labels.npy (examples; integers), and the same for train and validation where they are used."
        )
    return found


def _load(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MissingData(f"{path} cannot be read: {error}.") from None
    return array


@task("image_class_arrays")
def array_classes_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> ClassificationTask:
    """Image classification of NumPy arrays in a folder, scored by the head that was trained with the task's expert."""
    names = _class_names(name, spec, "image_class_arrays")
    return image_classification(name, spec, read_splits(Path(spec.dataset).expanduser()), names, family, base)


@task("image_arrays")
def array_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> ImageTask:
    """Image classification of NumPy arrays in a folder, scored by a frozen zero-shot head."""
    names = _class_names(name, spec, "image_arrays")
    return open_vocabulary_task(
        name,
        read_splits(Path(spec.dataset).expanduser()),
        class_names=names,
        templates=spec.templates,
        family=family,
        base=base,
        metrics=chosen_metrics(name, spec.metrics, CLASSIFIED),
        version=spec.version,
    )


def _class_names(name: str, spec: TaskSpec, kind: str) -> tuple[str, ...]:
    """Return the class names of a task of arrays, which bring none themselves.

    Raises:
        ConfigError: where there are none, or the description says what arrays have no use for.
    """
    if spec.class_names is None:
        raise ConfigError(f"The task {name} is of the kind {kind!r}, which brings no class_names. List them.")
    refuse_unused(name, spec, "config", "splits", "columns", "options")
    return spec.class_names
