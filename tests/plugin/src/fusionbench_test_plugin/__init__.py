"""Another package's method, family and kind of task: what a third party writes to be part of the benchmark."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fusionbench.families import Backbone, Batch, Family
from fusionbench.families.registration import family
from fusionbench.methods import merge_method
from fusionbench.tasks import ACCURACY, Predictor, Rows, Split, TaskSpec
from fusionbench.tasks.order import index_batches
from fusionbench.tasks.registration import task
from fusionbench.weights.headers import Source, TensorSpec


@merge_method(
    "midpoint",
    paper="none: a test",
    kind="stream",
    category="merge",
    version=1,
    laws=("identity", "order"),
    exempt={"scale_zero": "there is no scale", "shift": "not tested", "single": "half-way to the base"},
)
def midpoint(base: Tensor, experts: Sequence[Tensor], *, part: float = 0.5) -> Tensor:
    """Return the point between the base and the experts' mean.

    Args:
        base: the pretrained tensor.
        experts: the same tensor from each fine-tuned model.
        part: how far to go, from 0 (base) to 1 (mean).
    """
    total = experts[0]
    for expert in experts[1:]:
        total = total + expert
    return base + (total / len(experts) - base) * part


class Plane(nn.Module):
    """One linear map of points in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, points: Tensor) -> Tensor:
        return self.linear(points)


@family
class Points:
    """Points in the plane and one linear map."""

    name = "points"
    version = 1
    tower = ""
    model_types = ("plane",)

    def matches(self, config: Mapping[str, Any]) -> bool:
        return config.get("model_type") == "plane"

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        with torch.device("meta"):
            return Plane().eval()

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        return {name: name for name in specs}

    def collate(self, examples: Sequence[Mapping[str, Any]], processor: Any = None) -> Batch:
        return {"points": torch.tensor([example["point"] for example in examples])}

    def features(self, backbone: Backbone, batch: Batch) -> Tensor:
        return backbone(batch["points"])


class HalfPlanes:
    """On which side of a line through the origin does a point lie?"""

    version = 1
    metrics = (ACCURACY,)

    def __init__(self, name: str, family: Family, angle: float) -> None:
        self.name, self.family = name, family
        self.points = np.random.default_rng(7).standard_normal((200, 2)).astype(np.float32)
        self.labels = self.points @ np.array([np.cos(angle), np.sin(angle)]) > 0

    def size(self, split: Split) -> int:
        return len(self.points)

    def batches(
        self, split: Split, *, size: int, seed: int | None = None, start: int = 0, limit: int | None = None,
        labels: bool = True,
    ) -> Iterator[Batch]:  # fmt: skip
        count = min(limit or len(self.points), len(self.points))
        for index in index_batches(self.name, count, size=size, seed=seed, start=start):
            batch = {"points": torch.from_numpy(self.points[index])}
            yield {**batch, "labels": torch.from_numpy(self.labels[index])} if labels else batch

    def bind(self, backbone: Backbone) -> Predictor:
        return lambda batch: self.family.features(backbone, batch)

    def loss(self, predict: Predictor, batch: Batch) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(predict(batch)[:, 0], batch["labels"].float())

    def objective(self, predict: Predictor, batch: Batch) -> Tensor:
        share = predict(batch)[:, 0].sigmoid()
        return -(share * share.log() + (1 - share) * (1 - share).log()).mean()

    def rows(self, predict: Predictor, batch: Batch) -> Rows:
        return {"correct": ((predict(batch)[:, 0] > 0) == batch["labels"]).numpy()}


@task("half_planes")
def half_planes(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> HalfPlanes:
    """Sides of a line; `options.angle` is the line's."""
    return HalfPlanes(name, family, float(spec.options["angle"]))
