"""Distillation: a model learns to answer as another, without labels."""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from fusionbench.errors import ConfigError
from fusionbench.families import Batch, Family, load_module
from fusionbench.finetune.start import Trained
from fusionbench.tasks.base import Predictor, Task
from fusionbench.weights.sources import open_source

LABELS, NO_LABEL = "labels", -100


class Teacher:
    """A plain model whose logits are the target.

    Attributes:
        source: the checkpoint.
    """

    def __init__(self, reference: str | Path, family: Family) -> None:
        """Open the checkpoint; its tensors are read when it first answers."""
        self.source, self._family = open_source(reference), family

    @cached_property
    def module(self) -> nn.Module:
        """The module in float32, in eval mode, without gradients."""
        return load_module(self._family, self.source).float().requires_grad_(False)

    def loss(self, task: Task, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean of (z − z*)² over logits z of the student and z* of the teacher (arXiv:2402.10193, eq. 5).

        Positions whose label says that they are padding do not count.

        Raises:
            ConfigError: where the task's predictor gives no logits.
        """
        found = predict(batch)
        with torch.no_grad():
            place = found.device if isinstance(found, Tensor) else "cpu"
            target = Trained(self.module.to(place)).for_task(task)(batch)
        if not (isinstance(found, Tensor) and isinstance(target, Tensor) and found.is_floating_point()):
            raise ConfigError(f"teacher: the task {task.name} gives no logits to learn from. Leave the teacher out.")
        labels = batch.get(LABELS)
        if isinstance(labels, Tensor) and labels.shape == found.shape[:-1]:
            real = labels.to(found.device) != NO_LABEL
            found, target = found[real], target[real]
        return mse_loss(found, target)
