"""Arcee Fusion: take over only the entries of an expert that stand out by distance and by change of distribution."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.kernels.tiles import BLOCK
from fusionbench.methods._method import merge_method
from fusionbench.methods._sums import LANE, row_sums
from fusionbench.registry import Workspace


@merge_method(
    "arcee_fusion",
    paper="mergekit 0.1.5",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    workspace=Workspace(fixed=13.5),
    laws=("identity",),
    exempt={
        "order": "it takes exactly one expert",
        "scale_zero": "there is no scale",
        "shift": "the divergence is that of the weights' own softmax",
        "single": "of a single expert only what stands out is taken",
    },
    compat={"paper": {}, "mergekit": {"at_zero": "all"}},
)
def arcee_fusion(base: Tensor, experts: Sequence[Tensor], *, at_zero: Literal["above", "all"] = "above") -> Tensor:
    """Return the expert's entry where |θ₁−θ₀|·KL(p₁‖p₀) reaches median + 1.5·(Q₃−Q₁) of its tensor, else the base's.

    p is the softmax of a line of the last axis plus 1e-8, KL its divergence, no less than 0; quantiles are the order
    statistics at ⌊q·(n−1)⌋. All of it is in float64: the divergence of near lines is below float32's rounding.

    Args:
        base: the tensor that is kept elsewhere, of any shape.
        experts: one tensor of that shape.
        at_zero: what is taken where the threshold is zero: what lies above it, or all entries (mergekit).

    Raises:
        ConfigError: where there is not exactly one expert.

    Others: mergekit works in the recipe's dtype, estimates quantiles of more than 10⁶ entries from a random sample, and
    writes float32 whatever the inputs were.
    """
    if len(experts) != 1:
        raise ConfigError(
            f"arcee_fusion takes a base and exactly one expert, got {len(experts)}. Merge them one by one."
        )
    (expert,) = experts
    if base.numel() == 0:
        return base.clone()
    importance = _importance(base, expert)
    low, middle, high = (_order_statistic(importance, share) for share in (0.25, 0.5, 0.75))
    threshold = middle + 1.5 * (high - low)
    chosen = importance >= threshold
    if at_zero == "above":
        chosen &= importance > 0
    return torch.where(chosen.reshape(base.shape), expert, base)


def _importance(base: Tensor, expert: Tensor) -> Tensor:
    """Return |θ₁−θ₀|·KL of each entry, `(entries,)` float64."""
    width = base.shape[-1] if base.dim() else 1
    # Rows are filled up to whole lanes where they are summed.
    height = max(1, BLOCK // max(width, LANE))
    parts = []
    for old, new in zip(*(torch.split(v.reshape(-1, width), height) for v in (base, expert)), strict=True):
        old, new = old.double(), new.double()
        p, q = new.softmax(1) + 1e-8, old.softmax(1) + 1e-8
        divergence = row_sums(p * (p / q).log()).clamp(min=0.0)
        parts.append(((new - old).abs() * divergence.unsqueeze(1)).reshape(-1))
    return torch.cat(parts)


def _order_statistic(values: Tensor, share: float) -> Tensor:
    """Return the entry at ⌊share·(n−1)⌋ of the sorted values."""
    return values.kthvalue(math.floor(share * (len(values) - 1)) + 1).values
