"""Closed image classification: a fixed list of classes, told apart by a head that came with the task's expert."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fusionbench.errors import ConfigError, MissingPart
from fusionbench.families import Family, HasHead, HasImages, ImageProcessor, as_source
from fusionbench.tasks.base import Split
from fusionbench.tasks.class_lists import agreed_class_names
from fusionbench.tasks.classification import ClassificationTask
from fusionbench.tasks.data import Corruption, Labels, RawSplit, prepare
from fusionbench.tasks.datasets import from_dataset
from fusionbench.tasks.metrics import CLASSIFIED, chosen_metrics
from fusionbench.tasks.order import Indices
from fusionbench.tasks.registration import task
from fusionbench.tasks.spec import TaskSpec
from fusionbench.tasks.trained_heads import read_head
from fusionbench.weights.headers import Source


@dataclass(frozen=True, slots=True)
class PreparedImages:
    """Images of the model's size, mapped from a file.

    Attributes:
        images: `(examples, size, size, 3)`, uint8.
        labels: `(examples,)`, int64.
    """

    images: NDArray[np.uint8]
    labels: Labels

    def take(self, indices: Indices) -> list[dict[str, Any]]:
        """Return examples as a family's `collate` takes them, without labels."""
        return [{"image": image} for image in self.images[indices]]


@dataclass(frozen=True, slots=True)
class ImageClasses:
    """A split of labelled images, changed by a corruption if there is one; prepared when it is first read."""

    raw: RawSplit
    processor: ImageProcessor
    corruption: Corruption | None = None

    @property
    def count(self) -> int:
        """Number of examples."""
        return self.raw.count

    def corrupted(self, change: Corruption) -> "ImageClasses":
        """Return the split with changed images."""
        return replace(self, corruption=change)

    def open(self) -> PreparedImages:
        """Prepare the split, or find it prepared."""
        return PreparedImages(*prepare(self.raw, self.processor, self.corruption))


@task("image_classes")
def image_classes_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> ClassificationTask:
    """Image classification of a data set, scored by the head that was trained with the task's expert."""
    if spec.options:
        raise ConfigError(f"The task {name}: 'image_classes' takes no options, got {', '.join(spec.options)}.")
    found = from_dataset(
        spec.dataset, config=spec.config, splits=spec.splits, image=spec.columns.image, label=spec.columns.label
    )
    names = agreed_class_names(name, spec.dataset, spec.class_names, found.class_names)
    return image_classification(name, spec, found.splits, names, family, base)


def image_classification(
    name: str,
    spec: TaskSpec,
    splits: Mapping[Split, RawSplit],
    class_names: Sequence[str],
    family: Family,
    base: Source | nn.Module,
) -> ClassificationTask:
    """Return the task of telling classes of images apart, with the head that the description names, if it names one.

    Args:
        name: in tables; seeds the order of examples.
        spec: with metrics, version and head.
        splits: raw, such as `from_arrays` makes.
        class_names: in the order of the labels.
        family: of the pool's models.
        base: the pretrained checkpoint, or its module as Hugging Face loaded it from a folder.

    Raises:
        MissingPart: where the family takes no images, or has no trained heads.
        ConfigError: where the description has prompt templates, of which such a task has no use.
    """
    if "templates" in spec.model_fields_set:
        raise ConfigError(
            f"The task {name} has templates, but its head is trained, not made of texts. Leave them out, or choose a "
            "kind of open vocabulary: image or image_arrays."
        )
    if not isinstance(family, HasImages):
        raise MissingPart(family.name, f"image input, which the task {name} is about")
    if not isinstance(family, HasHead):
        raise MissingPart(family.name, f"trained heads, one of which the task {name} needs")
    source = as_source(base)
    processor = family.processor(source)
    return ClassificationTask(
        name=name,
        family=family,
        config=source.config,
        class_names=tuple(class_names),
        data={split: ImageClasses(raw, processor) for split, raw in splits.items()},
        processor=processor,
        head=None if spec.head is None else read_head(spec.head, family, source.config, class_names, task=name),
        metrics=chosen_metrics(name, spec.metrics, CLASSIFIED),
        version=spec.version,
    )
