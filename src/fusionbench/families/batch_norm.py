"""BatchNorm layers of a module, and their statistics estimated anew on inputs."""

from collections.abc import Iterable

import torch
from torch import nn

from fusionbench.families.base import Batch, Family

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def batch_norms(module: nn.Module) -> list[BatchNorm]:
    """Return the BatchNorm layers of a module that keep statistics, in the order of its modules."""
    return [layer for layer in module.modules() if isinstance(layer, BatchNorm) and layer.track_running_stats]


@torch.no_grad()
def reestimate(module: nn.Module, family: Family, batches: Iterable[Batch]) -> None:
    """Give the BatchNorm layers of a module the plain means over batches of their inputs' means and variances.

    Each layer normalises by its batch while it counts (arXiv:2211.08403, §3), so that deeper layers see what they
    will see. Momentum and the counter of batches stay as they are, and every layer ends in eval mode. A module
    without such layers is left as it is, and no batch is read.

    Args:
        module: in eval mode, on the batches' device.
        family: by which it runs.
        batches: without labels.
    """
    layers = batch_norms(module)
    if not layers:
        return
    before = [(layer.momentum, layer.state_dict()["num_batches_tracked"].clone()) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        for batch in batches:
            family.features(module, batch)
    finally:
        for layer, (momentum, seen) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.state_dict()["num_batches_tracked"].copy_(seen)
            layer.eval()
