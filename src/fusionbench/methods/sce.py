"""SCE: select the entries on which the experts differ, calculate their weights, erase the minority's signs."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusionbench.kernels.variance import MAJORITY
from fusionbench.methods._method import merge_method
from fusionbench.methods._rows import whole
from fusionbench.methods._sums import gram
from fusionbench.parameters import Density
from fusionbench.registry import Workspace

Thresholds = Literal["relative", "absolute"]


@merge_method(
    "sce",
    paper="arXiv:2408.07990",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    kernel=MAJORITY,
    workspace=Workspace(each=3.5),
    laws=("identity", "order"),
    exempt={
        "scale_zero": "there is no scale",
        "shift": "deltas are rounded differently when all inputs move, which can change selection and signs",
        "single": "where entries are selected: a single task vector has no variance, so none of it is",
    },
    compat={"paper": {}, "mergekit": {"thresholds": "absolute"}},
)
def sce(
    base: Tensor, experts: Sequence[Tensor], *, select_topk: Density = 1.0, thresholds: Thresholds = "relative"
) -> Tensor:
    """Return θ₀ + Σ wᵢ·mᵢ·τᵢ / Σ wᵢ·mᵢ, wᵢ each task vector's share of the mean squares (arXiv:2408.07990, §3.3).

    Select: of the entries whose variance over the experts is not zero, the share with the largest, compared by their
    roots in float32; ties by index.
    Calculate: wᵢ = mean(τ̂ᵢ²) / Σ mean(τ̂ⱼ²) over the selected task vectors τ̂. Erase: mᵢ holds the entries with the sign
    of Σ τ̂ᵢ, plus where that is zero.

    Args:
        base: the pretrained tensor, of any shape; each tensor has weights of its own.
        experts: the same tensor from each fine-tuned model.
        select_topk: share of the entries with variance that is selected, in (0, 1]; 1 leaves selection out. The paper
            reports 0.1.
        thresholds: whether weights follow from the task vectors however small they are, or as in mergekit are equal
            where the mean squares sum to less than 1e-6, and divide by no less than 1e-6.

    Others: no code of the authors is public; steps and order are mergekit's.
    """
    deltas = [expert - base for expert in experts]
    if select_topk < 1:
        chosen = _most_variable(deltas, select_topk)
        deltas = [torch.where(chosen, delta, 0.0) for delta in deltas]
    weights = _weights(deltas, thresholds)
    positive = _sum([delta.double() for delta in deltas]) >= 0
    merged, share = torch.zeros_like(base), torch.zeros_like(base)
    for delta, weight in zip(deltas, weights.unbind(), strict=True):
        agrees = torch.where(positive, delta > 0, delta < 0)
        merged = merged + torch.where(agrees, delta * weight, 0.0)
        share = share + torch.where(agrees, weight, 0.0)
    divisor = share.clamp(min=1e-6) if thresholds == "absolute" else torch.where(share > 0, share, 1.0)
    return base + merged / divisor


def _most_variable(deltas: Sequence[Tensor], share: float) -> Tensor:
    """Return a mask of the ⌊share·n⌋ largest deviations over the experts, n counting those that are not zero."""
    wide = [delta.double() for delta in deltas]
    mean = _sum(wide) / len(wide)
    variance = _sum([(delta - mean).square() for delta in wide]) / len(wide)
    deviation = variance.sqrt().float().reshape(-1)
    count = ((deviation > 0).sum().double() * share).floor()
    order = deviation.argsort(descending=True, stable=True)
    chosen = torch.arange(len(order), device=order.device) < count
    return torch.zeros_like(chosen).scatter_(0, order, chosen).reshape(deltas[0].shape)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return sum(tensors[1:], tensors[0])


def _weights(deltas: Sequence[Tensor], thresholds: Thresholds) -> Tensor:
    """Return each task vector's share of the mean squares, `(N,)`."""
    squares = torch.cat([gram([whole(delta)]).reshape(1) for delta in deltas]) / max(deltas[0].numel(), 1)
    total = _sum(squares.unbind())
    enough = total >= 1e-6 if thresholds == "absolute" else total > 0
    return torch.where(enough, squares / torch.where(enough, total, 1.0), 1 / len(deltas)).to(deltas[0].dtype)
