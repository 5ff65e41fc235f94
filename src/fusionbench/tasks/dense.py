"""Tasks that ask something of every pixel: segmentation, depth, surface normals. Each has a trained head of its own."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fusionbench.errors import MissingHead, NotAdaptable
from fusionbench.families import Backbone, Batch, Family, HasHead, ImageProcessor
from fusionbench.families.scene import normalised
from fusionbench.tasks.base import Metric, Predictor, Rows, Split
from fusionbench.tasks.dense_data import DenseSplit, checked_targets
from fusionbench.tasks.dense_kinds import KINDS
from fusionbench.tasks.order import Indices
from fusionbench.tasks.outputs import entropies, finite
from fusionbench.tasks.reading import reading, split_of

MOST_PIXELS = 1 << 21
"""Pixels that a single reading yields at a time: 18 images of 288 × 384, whose maps would fill the memory otherwise."""


@dataclass(frozen=True)
class DenseTask:
    """Say something of every pixel; implements `Task` and `HasTrainedHead`.

    Attributes:
        name: in tables; seeds the order of examples.
        family: whose features the head reads.
        kind: of `dense_kinds.KINDS`: "segmentation", "depth" or "normals".
        class_names: of the head's channels, in order.
        data: the splits that there are.
        config: the base's `config.json`, which says how heads are made.
        processor: the base's.
        metrics: the primary one first.
        head: from the family's features to `(examples, channels, h, w)`, of any height and width.
        version: raised when the task's numbers change.
    """

    name: str
    family: Family
    kind: str
    class_names: tuple[str, ...]
    data: Mapping[Split, DenseSplit]
    config: Mapping[str, Any]
    processor: ImageProcessor
    metrics: tuple[Metric, ...]
    head: nn.Module | None = None
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
        """Yield batches of `size` examples of a split; see `Task.batches`.

        "pixel_values" is `(size, 3, h, w)` float32. "labels" is `(size, h, w)` int64 for segmentation (−1: ignored),
        `(size, h, w)` float32 for depth (0: unknown), `(size, h, w, 3)` float32 for normals (all 0: unknown). A single
        reading (no seed) yields fewer than `size` at a time where images are large.

        Raises:
            MissingData: where the split is not there or empty.
            ConfigError: where a target is none of the task's.
        """
        if seed is None:
            images, _ = split_of(self.name, self.data, split).read(np.zeros(1, np.int64))
            size = max(1, min(size, MOST_PIXELS // (images.shape[1] * images.shape[2])))
        order = reading(self.name, split, self.size(split), size=size, seed=seed, start=start, limit=limit)
        return self._read(split, order, labels)

    def _read(self, split: Split, order: Iterable[Indices], labels: bool) -> Iterator[Batch]:
        kind = KINDS[self.kind]
        for indices in order:
            images, targets = self.data[split].read(indices)
            batch: Batch = {"pixel_values": normalised(images, self.processor)}
            if labels:
                checked = checked_targets(self.name, split, kind, targets, len(self.class_names))
                batch["labels"] = torch.from_numpy(np.ascontiguousarray(checked))
            yield batch

    def bind(self, backbone: Backbone) -> Predictor:
        """Return features, head and bilinear enlargement: maps `(examples, channels, h, w)` of the input's size.

        Raises:
            MissingHead: where the task has no head.
        """
        head = self.head
        if head is None:
            raise MissingHead(
                f"The task {self.name} has no head. Heads are trained with experts: name one that has it, as the "
                f"task's head=REF, or train one with: fusionbench finetune tasks=[{self.name}]."
            )

        def predict(batch: Batch) -> Tensor:
            features = self.family.features(backbone, batch)
            if next(head.parameters()).device != features.device:
                head.to(features.device)
            maps: Tensor = head(features.to(torch.float32))
            return interpolate(maps, size=batch["pixel_values"].shape[-2:], mode="bilinear", align_corners=True)

        return predict

    def fresh_head(self, seed: int) -> nn.Module:
        """Return a new head, as the architecture initialises it, in train mode."""
        assert isinstance(self.family, HasHead)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.family.head_module(self.config, len(self.class_names))

    def with_head(self, head: nn.Module) -> "DenseTask":
        """Return the same task with another head; it is used as it is, in whatever mode."""
        return replace(self, head=head)

    def loss(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the training loss of a labelled batch, the mean over its valid pixels."""
        maps: Tensor = predict(batch)
        return KINDS[self.kind].loss(maps, batch["labels"].to(maps.device))

    def objective(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean over all pixels of the entropy of their classes, in nats.

        Raises:
            NotAdaptable: for depth and normals, whose heads give no distribution.
        """
        reason = KINDS[self.kind].no_entropy
        if reason:
            raise NotAdaptable(
                f"The task {self.name} has no objective without labels: {reason}. Leave its expert out, or choose a "
                "method that does not adapt."
            )
        return entropies(predict(batch), dim=1).mean()

    def rows(self, predict: Predictor, batch: Batch) -> Rows:
        """Return the sufficient statistics of a labelled batch over its valid pixels; see `dense_kinds`.

        Raises:
            NotFinite: where an output is NaN or Inf, so that the model's answer means nothing.
        """
        maps = finite(predict(batch), self.name, "maps").cpu()
        return KINDS[self.kind].rows(maps, batch["labels"].cpu())
