"""Turn golden state dicts into plain modules, for peers that merge modules only."""

from __future__ import annotations

from torch import Tensor, nn


def module_of(state: dict[str, Tensor]) -> nn.Module:
    """Build a module whose state dict is ``state``.

    Matrices sit in ``nn.Linear`` (but ``embed`` does not), ``bn`` is a BatchNorm, all else are bare parameters;
    ``head`` shares its weight with ``embed``.
    """
    root = nn.Module()
    for prefix in sorted({name.rpartition(".")[0] for name in state}):
        child = root
        for part in filter(None, prefix.split(".")):
            if not hasattr(child, part):
                child.add_module(part, kind_of(prefix, state) if prefix.endswith(part) else nn.Module())
            child = child.get_submodule(part)
    for name, tensor in state.items():
        prefix, _, leaf = name.rpartition(".")
        owner = root.get_submodule(prefix)
        if leaf in dict(owner.named_buffers(recurse=False)):
            owner.register_buffer(leaf, tensor.clone())
        else:
            owner.register_parameter(leaf, nn.Parameter(tensor.clone()))
    if "head.weight" in state:
        root.get_submodule("head").register_parameter("weight", root.get_submodule("embed").get_parameter("weight"))
    return root


def kind_of(prefix: str, state: dict[str, Tensor]) -> nn.Module:
    """Choose the module for one prefix."""
    if f"{prefix}.running_mean" in state:
        return nn.BatchNorm1d(state[f"{prefix}.weight"].numel())
    weight = state.get(f"{prefix}.weight")
    if weight is not None and weight.ndim == 2 and not prefix.endswith("embed"):
        return nn.Linear(weight.shape[1], weight.shape[0], bias=f"{prefix}.bias" in state)
    return nn.Module()
