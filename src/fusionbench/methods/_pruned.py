"""Routed MLPs of which only the largest changes are stored, and which share one router."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fusionbench.methods._routing import TABLES, routed_mlp
from fusionbench.mixing.bits import packed
from fusionbench.mixing.routed import Route
from fusionbench.mixing.sites import ModuleSite, Replacement


def above_quantile(tensor: Tensor, share: float) -> Tensor:
    """Return where |x| is strictly above the `share` quantile of all |x|, interpolated linearly (arXiv:2410.21804).

    Args:
        tensor: of any shape and size; `torch.quantile` takes no more than 2²⁴ entries.
        share: of the entries that are left out, in [0, 1]; at 0 the smallest ones still are.
    """
    flat = tensor.abs().flatten()
    if flat.numel() == 0:
        return torch.zeros_like(tensor, dtype=torch.bool)
    place = share * (flat.numel() - 1)
    below = int(place)
    low = flat.kthvalue(below + 1).values.double()
    high = flat.kthvalue(min(below + 2, flat.numel())).values.double()
    return tensor.abs().double() > low + (place - below) * (high - low)


def pruned_mlp(
    site: ModuleSite, base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], *, depth: int, init: float,
    route: Route = "sample", shared_by: int = TABLES, prune: float = 0.9,
) -> Replacement:  # fmt: skip
    """Return `routed_mlp` without the smallest entries of each change, and with the first block's router.

    Args:
        site: an MLP.
        base: its tensors.
        experts: the same of each expert.
        depth: of the router.
        init: of the router's last bias, and λ of what is no linear map.
        route: what has weights of its own.
        shared_by: how many samples of a batch share weights, where the batch does.
        prune: share of each expert's change in each tensor that is left out.
    """
    made = routed_mlp(site, base, experts, depth=depth, init=init, route=route, shared_by=shared_by)
    first = site.depth == 0
    tensors = {name: tensor for name, tensor in made.tensors.items() if first or not name.startswith("router.")}
    counts = []
    for part in site.linears:
        deltas = tensors.pop(f"mlp.{part}.delta")
        kept = torch.stack([above_quantile(delta, prune) for delta in deltas])
        tensors[f"mlp.{part}.values"] = deltas[kept]
        tensors[f"mlp.{part}.mask"] = packed(kept.flatten(0, 1))
        counts.append(str(int(kept.sum())))
        shift = tensors.get(f"mlp.{part}.shift")
        if shift is not None:
            tensors[f"mlp.{part}.shift"] = torch.stack([row * above_quantile(row, prune) for row in shift])
    settings = {**made.settings, "kept": ",".join(counts), "shared": not first}
    return replace(made, tensors=tensors, settings=settings)
