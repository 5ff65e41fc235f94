"""Breadcrumbs: drop both the outliers and the small entries of each layer's task vector."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusionbench.kernels.band import BAND, band
from fusionbench.kernels.selection import Keep
from fusionbench.methods._combine import Combine, combine_deltas
from fusionbench.methods._method import merge_method
from fusionbench.methods._rows import along, back_along, input_axis, whole
from fusionbench.methods._sparsify import largest, rescaled
from fusionbench.parameters import Density, PerExpert, Scale, Share, per_expert
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site


@merge_method(
    "breadcrumbs",
    paper="arXiv:2312.06795",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    kernel=BAND,
    workspace=Workspace(fixed=8, each=1),
    laws=("identity", "order", "scale_zero"),
    exempt={
        "shift": "deltas are rounded differently when all inputs move, which can change which entries are kept",
        "single": "a single task vector is masked too",
    },
    compat={
        "paper": {},
        "official": {"granularity": "row", "keep": "exact"},
        "mergekit": {"keep": "exact", "zero_sign": "positive"},
    },
)
def breadcrumbs(
    base: Tensor, experts: Sequence[Tensor], *, top_drop: PerExpert[Share] = 0.007,
    density: PerExpert[Density] | None = 0.143, bottom_drop: PerExpert[Share] | None = None,
    weights: PerExpert[float] = 1.0, scale: Scale = 0.3, granularity: Literal["tensor", "row"] = "tensor",
    combine: Combine = "linear", normalize: bool = False, rescale: Literal["norm", "none"] = "none",
    keep: Keep = "at_least_one", zero_sign: Literal["zero", "positive"] = "zero", site: Site | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + α·Σ wᵢ·(mᵢ∘τᵢ), mᵢ zero for the largest and the smallest magnitudes (arXiv:2312.06795, Eq. 2 and 3).

    Of n entries the largest ⌊top_drop·n⌋ are dropped, the next ⌊density·n⌋ kept; ties by index. Where so many are not
    left, fewer large ones are dropped.

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        top_drop: share of entries dropped as outliers; the paper's γ = 99.3 % drops 0.007.
        density: share that is kept; null where bottom_drop says it.
        bottom_drop: share of smallest entries dropped, the paper's β = 85 %; null where density says it.
        weights: one factor an expert on its masked task vector.
        scale: α; the paper's is 0.3.
        granularity: among which entries magnitudes are compared: of the tensor, or of each line along the inputs.
        combine: the weighted sum (paper), or elect a sign and merge what agrees (mergekit's breadcrumbs_ties).
        normalize: divide by the sum of the weights that entered.
        rescale: leave the kept entries, or give each tensor its ‖τ‖₁ back (mergekit's rescale=true).
        keep: `at_least_one` never empties a tensor or line; `exact` keeps ⌊density·n⌋, none of a small one; `official`
            keeps one more.
        zero_sign: what an exact tie elects: nothing, or plus (mergekit).
        site: which tensor this is; tells the lines of GPT-2's Conv1D, whose inputs come first.

    Raises:
        ConfigError: where density and bottom_drop are both given, or neither, or normalised weights sum to zero.

    Others: the authors' code masks each line of the last axis; mergekit calls top_drop gamma.
    """
    count = len(experts)
    shares = (
        per_expert(top_drop, count),
        per_expert(density, count),
        per_expert(bottom_drop, count),
    )
    deltas = []
    for expert, top, share, bottom in zip(experts, *shares, strict=True):
        delta = expert - base
        mask = _mask(delta, top, share, bottom, granularity, keep, site)
        deltas.append(rescaled(torch.where(mask, delta, 0.0), delta, 1.0, rescale))
    factors = per_expert(weights, count)
    return base + combine_deltas(deltas, factors, combine=combine, normalize=normalize, zero_sign=zero_sign) * scale


def _mask(
    delta: Tensor, top_drop: float, density: float | None, bottom_drop: float | None, granularity: str, keep: Keep,
    site: Site | None,
) -> Tensor:  # fmt: skip
    """Return which entries of a task vector are kept."""
    by_line = granularity == "row" and delta.dim() > 1
    axis = input_axis(delta, site)
    rows = along(delta, axis) if by_line else whole(delta)
    size = rows.shape[1]
    below, above = band(size, top_drop, density, bottom_drop, keep)
    mask = largest(rows, below) & largest(rows, above).logical_not()
    return back_along(mask, delta.shape, axis) if by_line else mask.reshape(delta.shape)
