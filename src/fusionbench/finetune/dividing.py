"""Fine-tuning in several processes: each runs its part of every batch; together they descend the loss of the whole."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fusionbench.errors import ConfigError
from fusionbench.families import Batch, batch_norms
from fusionbench.families.batch_norm import BatchNorm
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


class _Summed(torch.autograd.Function):
    """The sum over processes of a tensor that each has; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return processes.sum(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return ctx.processes.sum(gradients[0].contiguous()), None


@contextmanager
def shared_statistics(trained: nn.Module, processes: Processes, batch: int) -> Iterator[None]:
    """Let BatchNorm layers in train mode normalise by the whole batch while processes divide it.

    Args:
        trained: in train mode; layers in eval mode stay as they are.
        processes: each of which runs its part of every batch.
        batch: examples of a batch.

    Raises:
        ConfigError: where a process would have no example, so that the others would wait for its statistics.
    """
    layers = [layer for layer in batch_norms(trained) if layer.training] if processes.count > 1 else []
    if layers and batch < processes.count:
        raise ConfigError(
            f"recipe.batch={batch}: {processes.count} processes divide a batch that normalises, and each needs an "
            "example. Start fewer processes, or take a larger batch."
        )
    for layer in layers:
        layer.forward = partial(_normalised, layer, processes)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _normalised(layer: BatchNorm, processes: Processes, inputs: Tensor) -> Tensor:
    """Return what a BatchNorm layer makes of its part of a batch, by mean and variance of the whole."""
    if not layer.training:
        return type(layer).forward(layer, inputs)
    dimensions, shape = [0, *range(2, inputs.dim())], [1, -1, *[1] * (inputs.dim() - 2)]
    own = inputs.new_tensor([inputs.numel() // inputs.shape[1]])
    summed: Tensor = _Summed.apply(torch.cat([inputs.sum(dimensions), own]), processes)  # type: ignore[no-untyped-call]
    count, mean = summed[-1].detach(), summed[:-1] / summed[-1].detach()
    centred = inputs - mean.view(shape)
    spread: Tensor = _Summed.apply(centred.square().sum(dimensions), processes)  # type: ignore[no-untyped-call]
    _remember(layer, mean.detach(), spread.detach() / (count - 1).clamp(min=1))
    found = centred * (spread / count + layer.eps).rsqrt().view(shape)
    return found if layer.weight is None else found * layer.weight.view(shape) + layer.bias.view(shape)


@torch.no_grad()
def _remember(layer: BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move a layer's running statistics towards those of a batch, as PyTorch does."""
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked += 1
    weight = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    for kept, seen in ((layer.running_mean, mean), (layer.running_var, variance)):
        assert kept is not None
        kept.lerp_(seen.to(kept), weight)
