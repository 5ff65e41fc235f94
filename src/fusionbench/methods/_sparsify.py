"""What the sparsifiers share: which entries of a row are largest, their ranks, random draws, and rescaling."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fusionbench.kernels.tiles import BLOCK
from fusionbench.methods._random import uniform
from fusionbench.methods._sums import absolute_sum
from fusionbench.weights.plan import Site

Rescale = Literal["inverse", "norm", "none"]


def largest(rows: Tensor, count: int) -> Tensor:
    """Return a mask `(rows, width)` of each row's `count` largest magnitudes; of equal ones, the first."""
    magnitudes = rows.abs()
    if count <= 0 or magnitudes.numel() == 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool)
    cut = magnitudes.kthvalue(rows.shape[1] - count + 1, dim=1, keepdim=True).values
    above, tied = magnitudes > cut, magnitudes == cut
    quota = count - above.sum(1, keepdim=True)
    return above | (tied & (tied.cumsum(1) <= quota))


def ranks(rows: Tensor) -> Tensor:
    """Return each entry's rank by magnitude within its row, 0 for the smallest; of equal ones, the first is lower."""
    parts = []
    for part in torch.split(rows, max(1, BLOCK // max(rows.shape[1], 1))):
        order = part.abs().argsort(dim=1, stable=True)
        places = torch.arange(part.shape[1], device=rows.device).expand_as(order)
        parts.append(torch.empty_like(order).scatter_(1, order, places).to(torch.float32))
    return torch.cat(parts) if parts else torch.zeros_like(rows)


def drawn(site: Site, expert: str, like: Tensor) -> Tensor:
    """Return `uniform` for a tensor of any size, block by block."""
    parts = torch.split(like.reshape(like.numel()), BLOCK)
    draws = [uniform(replace(site, start=site.start + i * BLOCK), expert, part) for i, part in enumerate(parts)]
    return torch.cat(draws).view(like.shape)


def place_of(site: Site | None, base: Tensor, experts: Sequence[Tensor]) -> Site:
    """Return the site given by the engine, or a nameless one for a function that is called by itself."""
    names = tuple(map(str, range(len(experts))))
    return site or Site("", tuple(base.shape), 0, "other", True, "", None, 1, names, 0)


def rescaled(kept: Tensor, delta: Tensor, probability: Tensor | float, rescale: Rescale) -> Tensor:
    """Return the kept entries of a task vector, scaled to make up for the dropped ones.

    Args:
        kept: the task vector with its dropped entries zero.
        delta: the task vector.
        probability: with which entries were kept, one for all or one an entry.
        rescale: `inverse` divides by the probability, so that the mean over draws is the task vector; `norm` gives back
            the sum of magnitudes, ‖τ‖₁ (mergekit); `none` leaves the entries.
    """
    if rescale == "inverse":
        return kept / probability
    if rescale == "norm":
        return kept * norm_ratio(absolute_sum(kept), absolute_sum(delta)).to(kept.dtype)
    return kept


def norm_ratio(kept: Tensor, all_entries: Tensor) -> Tensor:
    """Return ‖τ‖₁ / ‖kept‖₁, 1 where nothing is left."""
    return torch.where(kept > 0, all_entries / torch.where(kept > 0, kept, 1.0), 1.0)
