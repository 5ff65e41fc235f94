"""What the replacements of linear maps share: the map they replace, and parameters that are not trained."""

import torch
from torch import Tensor, nn

from fusionbench.errors import CheckpointError


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight of a linear map.

    Raises:
        CheckpointError: where the module has none.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise CheckpointError(f"A {type(module).__name__} is no linear map, which the blueprint says it is.")
    return weight


def frozen(*shape: int) -> nn.Parameter:
    """Return a parameter without a gradient, its values unset."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)
