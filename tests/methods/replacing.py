"""Run what a rebuilding method puts in a module's place, without a model around it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusionbench.mixing.blueprint import SiteRecord
from fusionbench.mixing.kinds import build
from fusionbench.mixing.sites import Replacement

Tensors = Mapping[str, Tensor]


def linear(weight: Tensor, bias: Tensor | None = None) -> dict[str, Tensor]:
    """A linear map's tensors."""
    return {"weight": weight} | ({} if bias is None else {"bias": bias})


def module_of(made: Replacement | None, replaced: nn.Module) -> nn.Module:
    """The module of a replacement, filled; a plain one is the replaced module with other tensors."""
    assert made is not None
    module = replaced
    if made.kind is not None:
        with torch.device("meta"):
            module = build("site", replaced, SiteRecord(kind=made.kind, settings=dict(made.settings)))
    module.load_state_dict(dict(made.tensors), assign=True)
    return module.eval()


def put(made: Replacement | None, bias: bool = False) -> nn.Module:
    """The same, in the place of a linear map whose weight is `(out, in)`."""
    assert made is not None
    outputs, inputs = made.tensors["weight"].shape
    return module_of(made, nn.Linear(inputs, outputs, bias=bias))
