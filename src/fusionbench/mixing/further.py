"""A model with replaced modules as the beginning of a training, after which it is written in the same form."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from fusionbench.finetune.folder import write_training
from fusionbench.finetune.heads import TrainedHead
from fusionbench.mixing.mixed import MixedModel
from fusionbench.tasks import Predictor, Task
from fusionbench.weights.headers import Source


class MixtureStart:
    """Training of a `MixedModel`: every tensor of floating-point numbers, or those that `recipe.only` names.

    What is stored as bits, and the entries of sparse differences, stays as it is.

    Attributes:
        source: the folder that it was opened from.
    """

    def __init__(self, model: MixedModel, source: Source) -> None:
        """Take a model over; it is trained in place."""
        self.source, self._model = source, model

    @cached_property
    def module(self) -> nn.Module:
        """The module in float32, all of whose parameters ask for gradients."""
        module = self._model.module.float()
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return module

    def for_task(self, task: Task) -> Predictor:
        """Return the task's predictor; padding takes no part in the routing of whole inputs."""
        return self._model.for_task(task)

    def write(self, out: Path, record: Mapping[str, Any], curve: Path, head: TrainedHead | None) -> None:
        """Write the folder with its blueprint, the record and the curve; a head is none of the model's own."""
        del head
        self._model.save(out, beside=lambda folder: write_training(folder, record, curve))
