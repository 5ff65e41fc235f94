"""Image classification with any class names: the head is made of the names by the base's own text tower."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fusionbench.config import Config
from fusionbench.config.fields import Text
from fusionbench.errors import MissingPart
from fusionbench.families import (
    Backbone,
    Batch,
    Family,
    HasImages,
    HasParts,
    HasText,
    ImageProcessor,
    as_source,
    family_for,
)
from fusionbench.tasks.base import Metric, Predictor, Rows, Split
from fusionbench.tasks.class_lists import agreed_class_names
from fusionbench.tasks.data import Corruption, PreparedSplit, RawSplit, check_labels, prepare
from fusionbench.tasks.datasets import from_dataset
from fusionbench.tasks.frozen_heads import NormalisedHead, read_normalised_head
from fusionbench.tasks.heads import ZeroShotHead, zero_shot_head
from fusionbench.tasks.metrics import ACCURACY, CLASSIFIED, chosen_metrics
from fusionbench.tasks.order import Indices
from fusionbench.tasks.outputs import entropies, finite
from fusionbench.tasks.reading import reading, split_of
from fusionbench.tasks.registration import task
from fusionbench.tasks.spec import TaskSpec
from fusionbench.weights.headers import Source
from fusionbench.weights.sources import open_source


@dataclass(frozen=True)
class ImageTask:
    """Classify images; implements `Task`.

    Attributes:
        name: in tables; seeds the order of examples.
        family: whose features the head reads.
        head: frozen; has one row a class.
        class_names: in the order of the labels.
        data: the splits that there are.
        processor: the base's.
        metrics: the primary one first.
        version: raised when the task's numbers change.
        corruption: a change of every image that is not for training, None for the images as they are.
    """

    name: str
    family: Family
    head: ZeroShotHead | NormalisedHead
    class_names: tuple[str, ...]
    data: Mapping[Split, RawSplit]
    processor: ImageProcessor
    metrics: tuple[Metric, ...] = (ACCURACY,)
    version: int = 1
    corruption: Corruption | None = None

    def size(self, split: Split) -> int:
        """Return the number of examples of a split; see `Task.size`."""
        return split_of(self.name, self.data, split).count

    def batches(
        self,
        split: Split,
        *,
        size: int,
        seed: int | None = None,
        start: int = 0,
        limit: int | None = None,
        labels: bool = True,
    ) -> Iterator[Batch]:
        """Yield batches of `size` examples of a split: "pixel_values" `(size, 3, h, w)` float32, "labels" int64.

        See `Task.batches` for the arguments.

        Raises:
            MissingData: where the split is not there or empty.
            ConfigError: where a label is no index of a class.
        """
        order = reading(self.name, split, self.size(split), size=size, seed=seed, start=start, limit=limit)
        return self._read(self._prepared(split), order, labels)

    def corrupted(self, change: Corruption) -> "ImageTask":
        """Return the task with changed images, but for those of training."""
        return replace(self, corruption=change)

    def _prepared(self, split: Split) -> PreparedSplit:
        prepared = prepare(self.data[split], self.processor, None if split == "train" else self.corruption)
        check_labels(self.name, split, prepared.labels, len(self.class_names))
        return prepared

    def _read(self, split: PreparedSplit, order: Iterable[Indices], labels: bool) -> Iterator[Batch]:
        for indices in order:
            batch: Batch = {"pixel_values": self.processor.normalise(split.images[indices])}
            if labels:
                batch["labels"] = torch.from_numpy(split.labels[indices])
            yield batch

    def bind(self, backbone: Backbone) -> Predictor:
        """Return the family's features followed by the head: logits, `(examples, classes)`."""
        return lambda batch: self.head(self.family.features(backbone, batch))

    def loss(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of a labelled batch."""
        logits: Tensor = predict(batch)
        return cross_entropy(logits, batch["labels"].to(logits.device))

    def objective(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean entropy in nats, −Σ p·log p (arXiv:2310.02575, eq. 5), which needs no labels."""
        return entropies(predict(batch)).mean()

    def rows(self, predict: Predictor, batch: Batch) -> Rows:
        """Return "label" and "predicted", `(examples,)` int64, and "correct", `(examples,)` bool.

        Raises:
            NotFinite: where a logit is NaN or Inf, so that the model's answer means nothing.
        """
        logits = finite(predict(batch), self.name).cpu()
        predicted, labels = logits.argmax(dim=-1).numpy(), batch["labels"].cpu().numpy()
        return {"label": labels, "predicted": predicted, "correct": predicted == labels}


def open_vocabulary_task(
    name: str,
    data: Mapping[Split, RawSplit],
    *,
    class_names: Sequence[str],
    templates: Sequence[str],
    family: Family,
    base: Source | nn.Module,
    metrics: tuple[Metric, ...] = (ACCURACY,),
    version: int = 1,
    head: ZeroShotHead | NormalisedHead | None = None,
) -> ImageTask:
    """Return the task of telling `class_names` apart, with the zero-shot head of `base`.

    Args:
        name: in tables; seeds the order of examples.
        data: raw splits, such as `from_arrays` makes.
        class_names: in the order of the labels.
        templates: prompts, each with `{}` where the class name goes.
        family: of the pool's models.
        base: the pretrained checkpoint, or its module as Hugging Face loaded it from a folder.
        metrics: the primary one first.
        version: raised when the task's numbers change.
        head: one that is there already; None makes it of the class names.

    Raises:
        MissingPart: where the family takes no images, or has no text tower.
    """
    if not isinstance(family, HasImages):
        raise MissingPart(family.name, "image input, which the task " + name + " is about")
    made = head or zero_shot_head(family, base, class_names, templates)
    processor = family.processor(as_source(base))
    return ImageTask(name, family, made, tuple(class_names), data, processor, metrics, version)


class _Options(Config):
    """What a suite's YAML says of such a task under `options`."""

    text_model: Text | None = None


@task("image")
def image_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> ImageTask:
    """Image classification with class names and prompt templates, scored by a frozen zero-shot head.

    Where the family has no text tower, `head` names a file, or `options.text_model` the CLIP whose text tower makes it.
    """
    options = _Options.read(spec.options, f"options of the task {name}")
    found = from_dataset(
        spec.dataset, config=spec.config, splits=spec.splits, image=spec.columns.image, label=spec.columns.label
    )
    names = agreed_class_names(name, spec.dataset, spec.class_names, found.class_names)
    metrics = chosen_metrics(name, spec.metrics, CLASSIFIED)
    head = _given_head(name, spec, options.text_model, names, family, as_source(base))
    return open_vocabulary_task(
        name, found.splits, class_names=names, templates=spec.templates, family=family, base=base, metrics=metrics,
        version=spec.version, head=head,
    )  # fmt: skip


def _given_head(
    name: str, spec: TaskSpec, text_model: str | None, class_names: Sequence[str], family: Family, base: Source
) -> ZeroShotHead | NormalisedHead | None:
    """Return the head that a description names, or that another model's text tower makes; None for the base's own."""
    # A family with a text tower makes its heads itself, whatever expert a description names.
    if spec.head is not None and isinstance(family, HasParts) and not isinstance(family, HasText):
        width = family.width(base.config)
        return read_normalised_head(spec.head, classes=len(class_names), width=width, task=name)
    if text_model is None:
        return None
    source = open_source(text_model)
    return zero_shot_head(family_for(source.config), source, class_names, spec.templates)
