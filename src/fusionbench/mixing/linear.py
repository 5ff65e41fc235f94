"""What the replacements of linear maps share: the map they replace, and parameters that are not trained."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

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


class Form(NamedTuple):
    """What a linear map looks like from outside."""

    outputs: int
    inputs: int
    bias: bool
    inputs_last: bool


def replace_linears(
    module: nn.Module, parts: Iterable[str], transposed: Sequence[str], make: Callable[[str, Form], nn.Module]
) -> nn.Module:
    """Return a module, which is changed, with other modules in the place of its linear maps; nothing of it is trained.

    Args:
        module: the module.
        parts: names of its linear maps.
        transposed: those of them whose weight is `(in, out)`.
        make: from a map's name and form to what takes its place; it is called on the meta device.

    Raises:
        CheckpointError: where a map is not there, or is none.
    """
    named = dict(module.named_modules())
    for name in parts:
        linear = named.get(name)
        if linear is None:
            raise CheckpointError(f"The blueprint routes {name!r}, which a {type(module).__name__} does not have.")
        shape = weight_of(linear).shape
        outputs, inputs = reversed(shape) if name in transposed else shape
        with torch.device("meta"):
            made = make(name, Form(outputs, inputs, linear.bias is not None, name not in transposed))
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, made)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module
