"""What a task is: data, a frozen head, and metrics that are pure functions of per-example rows."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from torch import Tensor, nn

from fusionbench.families.base import Backbone, Batch, Family

Split = Literal["train", "validation", "test"]
Output = Any
"""What comes after the head: logits, maps, token ids, log-likelihoods."""
Predictor = Callable[[Batch], Output]
Rows = Mapping[str, np.ndarray[Any, Any]]
"""Sufficient statistics by name, the first dimension one row an example: what is stored, summed, resampled."""


class Score(NamedTuple):
    """A metric's value on a split; `n` is examples, `stderr` binomial for accuracy, else by bootstrap over examples."""

    value: float
    n: int
    stderr: float


class Metric(NamedTuple):
    """A pure function of the stacked rows of a split.

    Attributes:
        name: in reports, such as `accuracy`.
        unit: "fraction", "degrees", "nats" …; averages are taken over fractions only.
        better: which way is up.
        compute: from rows to (value, standard error).
    """

    name: str
    unit: str
    better: Literal["higher", "lower"]
    compute: Callable[[Rows], tuple[float, float]]


@runtime_checkable
class Task(Protocol):
    """Data splits, a frozen head, metrics; the first metric is the primary one."""

    @property
    def name(self) -> str:
        """What it is called in tables and recipes."""
        ...

    @property
    def version(self) -> int:
        """Raised when a number of the task changes."""
        ...

    @property
    def family(self) -> Family:
        """Whose features the head reads."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The primary one first."""
        ...

    def size(self, split: Split) -> int:
        """Return the number of examples of a split.

        Raises:
            MissingData: where the task has no such split.
        """
        ...

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
        """Yield batches of `size` examples of a split.

        Args:
            split: which examples.
            size: examples a batch; the last of a single reading may be smaller.
            seed: None reads once in the data's order; a number reads for ever, each epoch a permutation of
                (seed, task, epoch), one epoch joined to the next, so that every batch is full.
            start: examples to pass over, to go on where a run stopped.
            limit: take only the first so many examples of the split.
            labels: False leaves the label key out, so that nothing can peek.
        """
        ...

    def bind(self, backbone: Backbone) -> Predictor:
        """Return the family's features followed by this task's frozen head."""
        ...

    def loss(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the training loss of a labelled batch, the mean over its examples."""
        ...

    def objective(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean of the examples' entropies, which needs no labels.

        Raises:
            NotAdaptable: where the head gives no distribution, with the reason.
        """
        ...

    def rows(self, predict: Predictor, batch: Batch) -> Rows:
        """Return the sufficient statistics of a labelled batch, one row an example."""
        ...


@runtime_checkable
class WritesAnswers(Protocol):
    """A task whose answers are written token by token, so that a model has inputs that no batch of data holds."""

    def written(self, predict: Predictor, batch: Batch) -> Batch:
        """Return a batch, without labels, with what the model itself writes: one pass then sees every position."""
        ...


@runtime_checkable
class HasTrainedHead(Protocol):
    """A task whose head is trained with its expert, and kept with it; `bind` raises MissingHead where there is none."""

    @property
    def head(self) -> nn.Module | None:
        """From the family's features to the task's outputs; in eval mode, it asks for no gradients."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the head's outputs, in their order."""
        ...

    def fresh_head(self, seed: int) -> nn.Module:
        """Return a new head, as the architecture initialises it, in train mode."""
        ...

    def with_head(self, head: nn.Module) -> Self:
        """Return the same task with another head; it is used as it is, in whatever mode."""
        ...
