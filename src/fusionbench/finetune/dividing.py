"""Fine-tuning in several processes: each runs its part of every batch; together they descend the loss of the whole."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fusionbench.errors import ConfigError
from fusionbench.families import Batch, batch_norms
from fusionbench.tasks.terms import LABELS, examples_in, part_and_share, terms_in
from fusionbench.training import Processes


def divided_loss(
    loss_of: Callable[[str, Batch], Tensor],
    tasks: Sequence[str],
    processes: Processes,
    place: torch.device,
    *,
    distilled: bool,
) -> Callable[[Mapping[str, Batch]], Tensor]:
    """Return this process's part of the sum of the tasks' losses of a batch each; over the processes it is the loss.

    Args:
        loss_of: a task's loss of a batch, the mean of its terms.
        tasks: their names.
        processes: that divide each batch.
        place: the model's device.
        distilled: whether the loss is a teacher's, which over maps counts every pixel.
    """
    count = _distilled_terms if distilled else terms_in

    def loss(batches: Mapping[str, Batch]) -> Tensor:
        losses = [torch.zeros((), device=place, requires_grad=True)]
        for name in tasks:
            part, share = part_and_share(processes, batches[name], count=count)
            if share:
                losses.append(share * loss_of(name, part))
        return torch.stack(losses).sum()

    return loss


def _distilled_terms(batch: Batch) -> int:
    labels = batch.get(LABELS)
    return examples_in(batch) if isinstance(labels, Tensor) and labels.ndim > 2 else terms_in(batch)


def check_batch_norms(trained: nn.Module, processes: Processes) -> None:
    """Refuse to divide batches whose statistics normalise them.

    Args:
        trained: in train mode.
        processes: that would divide the batches.

    Raises:
        ConfigError: naming the first such layer.
    """
    layers = batch_norms(trained)
    active = [name for name, layer in trained.named_modules() if layer in layers and layer.training]
    if processes.count > 1 and active:
        raise ConfigError(
            f"{active[0]} normalises by its batch, which {processes.count} processes would divide: the result would be "
            "another one. Start one process, or train several tasks together (mtl=true), which keeps its statistics."
        )
