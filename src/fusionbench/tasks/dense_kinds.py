"""The three dense tasks: what a head's maps mean, how they are trained, and what is counted of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from fusionbench.tasks import dense_metrics
from fusionbench.tasks.base import Metric, Rows
from fusionbench.tasks.dense_metrics import ANGLE_BINS, BINS_A_DEGREE, WITHIN

IGNORED = -1
"""The label of pixels that count nowhere."""


@dataclass(frozen=True, slots=True)
class DenseKind:
    """One kind of dense task; `maps` are `(examples, channels, h, w)`, `labels` `(examples, h, w)` or `(…, h, w, 3)`.

    Attributes:
        name: of the kind, of its metrics' task, and in the files of splits.
        packaged: name of its folder in the NYUv2 packaging.
        channels: names of the head's channels; None: the task's class names.
        metrics: the primary one first.
        loss: from maps and labels to the mean over the batch's valid pixels.
        rows: from maps and labels to sufficient statistics, one row an example.
        no_entropy: why there is no objective without labels; "" where the maps are class scores.
    """

    name: str
    packaged: str
    channels: tuple[str, ...] | None
    metrics: tuple[Metric, ...]
    loss: Callable[[Tensor, Tensor], Tensor]
    rows: Callable[[Tensor, Tensor], Rows]
    no_entropy: str = ""


def segmentation_loss(maps: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the pixels whose label is not −1."""
    summed = cross_entropy(maps, labels, ignore_index=IGNORED, reduction="sum")
    return summed / (labels != IGNORED).sum().clamp(min=1)


def segmentation_rows(maps: Tensor, labels: Tensor) -> Rows:
    """Return "confusion", `(examples, classes, classes)` int64: valid pixels by true and predicted class."""
    classes = maps.shape[1]
    pairs = labels * classes + maps.argmax(dim=1)
    counts = [torch.bincount(p[v], minlength=classes**2) for p, v in zip(pairs, labels != IGNORED, strict=True)]
    return {"confusion": torch.stack(counts).view(-1, classes, classes).numpy()}


def depth_loss(maps: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of |p − g| over the pixels whose depth is not 0."""
    valid = labels != 0
    return ((maps[:, 0] - labels).abs() * valid).sum() / valid.sum().clamp(min=1)


def depth_rows(maps: Tensor, labels: Tensor) -> Rows:
    """Return "absolute" Σ|p − g|, "relative" Σ|p − g| / g (float64) and "pixels" (int64), `(examples,)` each."""
    valid = labels != 0
    error = (maps[:, 0].double() - labels.double()).abs() * valid
    relative = error / torch.where(valid, labels.double(), 1.0)
    return {
        "absolute": error.sum((1, 2)).numpy(),
        "relative": relative.sum((1, 2)).numpy(),
        "pixels": valid.sum((1, 2)).numpy(),
    }


def normals_loss(maps: Tensor, labels: Tensor) -> Tensor:
    """Return 1 − mean of p̂·g over the pixels whose normal is not all zero."""
    valid = (labels != 0).any(dim=-1)
    cosine = (normalize(maps, dim=1).permute(0, 2, 3, 1) * labels).sum(dim=-1)
    return 1 - (cosine * valid).sum() / valid.sum().clamp(min=1)


def normals_rows(maps: Tensor, labels: Tensor) -> Rows:
    """Return the angles between prediction and truth at valid pixels, one row an example.

    Valid is a pixel whose normal is not all zero. (Others take those whose components do not sum to 0, which drops some
    true normals.) Predictions and truths are brought to length 1.

    Returns:
        "degrees" (sum, float64), "pixels" (int64), "within" `(examples, 3)` (int64; below 11.25°, 22.5°, 30°), "angles"
        `(examples, 18001)` (int32; bins of 0.01°).
    """
    valid = (labels != 0).any(dim=-1)
    truth = normalize(labels.double(), dim=-1)
    cosine = (normalize(maps.double(), dim=1).permute(0, 2, 3, 1) * truth).sum(dim=-1)
    angle = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
    seen = [angle[i][valid[i]] for i in range(len(angle))]
    bins = [torch.bincount((one * BINS_A_DEGREE).long(), minlength=ANGLE_BINS).to(torch.int32) for one in seen]
    return {
        "degrees": np.array([float(one.sum()) for one in seen]),
        "pixels": valid.sum((1, 2)).numpy(),
        "within": np.array([[int((one < limit).sum()) for limit in WITHIN] for one in seen]),
        "angles": torch.stack(bins).numpy(),
    }


KINDS: Mapping[str, DenseKind] = {
    kind.name: kind
    for kind in (
        DenseKind("segmentation", "label", None, dense_metrics.SEGMENTATION, segmentation_loss, segmentation_rows),
        DenseKind(
            "depth",
            "depth",
            ("depth",),
            dense_metrics.DEPTH,
            depth_loss,
            depth_rows,
            "its head predicts one number a pixel, of which there is no distribution",
        ),
        DenseKind(
            "normals",
            "normal",
            ("right", "down", "away"),
            dense_metrics.NORMALS,
            normals_loss,
            normals_rows,
            "its head predicts one direction a pixel, of which there is no distribution",
        ),
    )
}
