"""Heads of class names that somebody made and kept: the `head_*.pt` files of the task_vectors release."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fusionbench.errors import CheckpointError, IncompatibleModels
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights


@dataclass(frozen=True, slots=True)
class NormalisedHead:
    """A linear map of normalised features: logits = W · f/‖f‖ + b, the scale of CLIP's cosines being in W.

    Attributes:
        weight: `(classes, width)`, float32; in the release each row has the length exp(logit_scale) ≈ 100.
        bias: `(classes,)`, float32; zeros in the release.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Map features `(images, width)`, of any length, to logits `(images, classes)` in float32."""
        unit = normalize(features.to(torch.float32), dim=-1)
        return unit @ self.weight.to(features.device).T + self.bias.to(features.device)


def read_normalised_head(reference: str | Path, *, classes: int, width: int, task: str) -> NormalisedHead:
    """Return a head from its file: the pickled module of the release, or tensors `weight` and, where not zero, `bias`.

    Args:
        reference: the file.
        classes: of the task, in the order of its labels.
        width: of the family's features.
        task: its name, for messages.

    Raises:
        CheckpointError: where the file is not there, or holds no such tensors.
        IncompatibleModels: where it is a head of other classes or features.
    """
    try:
        source = open_source(reference)
    except CheckpointError as error:
        raise CheckpointError(f"The head of the task {task} cannot be read: {error}") from None
    if "weight" not in source.specs or set(source.specs) - {"weight", "bias"}:
        raise CheckpointError(
            f"{reference} holds no head for the task {task}: it should hold weight and bias, it holds "
            f"{', '.join(list(source.specs)[:5])}."
        )
    expected = {"weight": (classes, width), "bias": (classes,)}
    for name, spec in source.specs.items():
        if spec.shape != expected[name]:
            raise IncompatibleModels(
                f"The head {reference} does not fit the task {task}: its {name} is {list(spec.shape)}, expected "
                f"{list(expected[name])} (classes, width of the features). Name the head of this task and this base."
            )
    held = {name: tensor.to(torch.float32) for name, tensor in LazyWeights(source).items()}
    return NormalisedHead(held["weight"], held.get("bias", torch.zeros(classes)))
