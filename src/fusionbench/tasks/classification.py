"""Classification by a head that was trained with its expert: texts, images, whatever the family collates."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fusionbench.errors import ConfigError, MissingHead
from fusionbench.families import Backbone, Batch, Family, HasHead
from fusionbench.tasks.base import Metric, Predictor, Rows, Split
from fusionbench.tasks.data import Corruption, Labels, check_labels
from fusionbench.tasks.metrics import ACCURACY
from fusionbench.tasks.order import Indices
from fusionbench.tasks.outputs import entropies, finite
from fusionbench.tasks.reading import reading, split_of


class Examples(Protocol):
    """The prepared examples of a split."""

    @property
    def labels(self) -> Labels:
        """The index of each example's class, `(examples,)` int64."""
        ...

    def take(self, indices: Indices) -> list[dict[str, Any]]:
        """Return examples as the family's `collate` takes them, without labels."""
        ...


class LabelledSplit(Protocol):
    """A split that is prepared when it is first read."""

    @property
    def count(self) -> int:
        """Number of examples, at least 1; known without preparing anything."""
        ...

    def open(self) -> Examples:
        """Prepare the split, or find it prepared."""
        ...


@runtime_checkable
class ImageSplit(LabelledSplit, Protocol):
    """A split of images, which can be changed before they are prepared."""

    def corrupted(self, change: Corruption) -> LabelledSplit:
        """Return the split with changed images."""
        ...


@dataclass(frozen=True)
class ClassificationTask:
    """Tell classes apart by a trained head; implements `Task` and `HasTrainedHead`.

    Attributes:
        name: in tables; seeds the order of examples.
        family: whose features the head reads; one that has heads.
        config: the base's `config.json`, by which a new head is made.
        class_names: in the order of the labels.
        data: the splits that there are.
        processor: what the family's `collate` is given.
        head: from features to logits; None where there is none yet.
        metrics: the primary one first.
        version: raised when the task's numbers change.
    """

    name: str
    family: Family
    config: Mapping[str, Any]
    class_names: tuple[str, ...]
    data: Mapping[Split, LabelledSplit]
    processor: Any = None
    head: nn.Module | None = None
    metrics: tuple[Metric, ...] = (ACCURACY,)
    version: int = 1

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
        """Yield batches of `size` examples of a split, as the family collates them, with "labels" int64.

        See `Task.batches` for the arguments.

        Raises:
            MissingData: where the split is not there or empty.
            ConfigError: where a label is no index of a class.
        """
        order = reading(self.name, split, self.size(split), size=size, seed=seed, start=start, limit=limit)
        examples = self.data[split].open()
        check_labels(self.name, split, examples.labels, len(self.class_names))
        return self._read(examples, order, labels)

    def _read(self, examples: Examples, order: Iterable[Indices], labels: bool) -> Iterator[Batch]:
        for indices in order:
            batch = self.family.collate(examples.take(indices), self.processor)
            if labels:
                batch["labels"] = torch.from_numpy(np.array(examples.labels[indices]))
            yield batch

    def fresh_head(self, seed: int) -> nn.Module:
        """Return a new head, as the architecture initialises it, in train mode."""
        assert isinstance(self.family, HasHead)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.family.head_module(self.config, len(self.class_names))

    def with_head(self, head: nn.Module) -> "ClassificationTask":
        """Return the same task with another head; it is used as it is, in whatever mode."""
        return replace(self, head=head)

    def corrupted(self, change: Corruption) -> "ClassificationTask":
        """Return the task with changed images, but for those of training.

        Raises:
            ConfigError: where its examples are no images.
        """
        changed = dict(self.data)
        for split, data in self.data.items():
            if not isinstance(data, ImageSplit):
                raise ConfigError(f"The task {self.name} is not about images; leave tasks.corruption out.")
            changed[split] = data if split == "train" else data.corrupted(change)
        return replace(self, data=changed)

    def bind(self, backbone: Backbone) -> Predictor:
        """Return the family's features followed by the head: logits, `(examples, classes)`.

        Raises:
            MissingHead: where the task has none.
        """
        head = self.head
        if head is None:
            raise MissingHead(
                f"The task {self.name} has no trained head: it has no expert, and names none. Give it the checkpoint "
                f"that holds one: head: REF in its description, or experts.{self.name}.head=REF."
            )

        def predict(batch: Batch) -> Tensor:
            features = self.family.features(backbone, batch)
            if next(head.parameters()).device != features.device:
                head.to(features.device)
            logits: Tensor = head(features.to(torch.float32))
            return logits

        return predict

    def loss(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of a labelled batch."""
        logits: Tensor = predict(batch)
        return cross_entropy(logits.float(), batch["labels"].to(logits.device))

    def objective(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean entropy in nats, −Σ p·log p (arXiv:2310.02575, eq. 5), which needs no labels."""
        return entropies(predict(batch).float()).mean()

    def rows(self, predict: Predictor, batch: Batch) -> Rows:
        """Return "label" and "predicted", `(examples,)` int64, and "correct", `(examples,)` bool.

        Raises:
            NotFinite: where a logit is NaN or Inf, so that the model's answer means nothing.
        """
        logits = finite(predict(batch), self.name).cpu()
        predicted: NDArray[np.int64] = logits.argmax(dim=-1).numpy()
        labels = batch["labels"].cpu().numpy()
        return {"label": labels, "predicted": predicted, "correct": predicted == labels}
