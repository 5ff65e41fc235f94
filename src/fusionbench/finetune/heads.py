"""Heads in fine-tuning: a new one is trained with the tower of a single task; those that are there stay as they are."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from fusionbench.errors import MissingHead
from fusionbench.tasks.base import HasTrainedHead, Task


class TrainedHead(NamedTuple):
    """A head in training, and the names of its outputs."""

    module: nn.Module
    class_names: tuple[str, ...]


def with_heads(
    tasks: Mapping[str, Task], seed: int, device: torch.device
) -> tuple[dict[str, Task], TrainedHead | None]:
    """Return tasks that can be bound, and the head that is to be trained, where one is new.

    Args:
        tasks: by name; those whose heads are trained with experts may lack them where there is only one.
        seed: of a new head.
        device: where it is put.

    Raises:
        MissingHead: where several tasks are trained together and some have no head.
    """
    lacking = {name: task for name, task in tasks.items() if isinstance(task, HasTrainedHead) and task.head is None}
    if not lacking:
        return dict(tasks), None
    if len(tasks) > 1:
        raise MissingHead(
            f"{', '.join(lacking)}: there is no trained head. One model of several tasks is trained with the heads of "
            "their experts: fine-tune an expert of each task first, or name heads in the tasks' descriptions."
        )
    ((name, task),) = lacking.items()
    head = task.fresh_head(seed).to(device)
    return {name: task.with_head(head)}, TrainedHead(head, task.class_names)
