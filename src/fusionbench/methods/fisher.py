"""Fisher merging: an average of the experts in which an entry counts as much as predictions hang on it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Annotated, Any

import torch
from torch import Tensor

from fusionbench.methods._fisher import collect_fisher
from fusionbench.methods._method import merge_method
from fusionbench.methods._statistics import shares_of
from fusionbench.parameters import PerExpert, Range
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

Statistics = Iterator[tuple[Site, Sequence[Tensor]]]
TINY = 1e-30
"""Total weight of an entry below which nothing is known of it, and the plain average is taken."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of each expert's Fisher information over all fused tensors: its length ‖F‖₂, and the mean of its entries."""

    norms: tuple[float, ...]
    means: tuple[float, ...]


def measure(
    read: Callable[..., Any],
    at: Mapping[str, Mapping[str, Any]],
    *,
    statistics: Callable[[], Statistics],
) -> Sizes | None:
    """Return the sizes of all experts' Fisher information; None where there is none."""
    squares, sums, entries = [], [], 0
    for _, found in statistics():
        entries += found[0].numel()
        squares.append([float(information.double().square().sum()) for information in found])
        sums.append([float(information.double().sum()) for information in found])
    if not entries:
        return None
    # Summed exactly, so that the order of the tensors is no matter.
    norms = tuple(fsum(column) ** 0.5 for column in zip(*squares, strict=True))
    return Sizes(norms, tuple(fsum(column) / entries for column in zip(*sums, strict=True)))


@merge_method(
    "fisher",
    paper="arXiv:2111.09832",
    kind="stream",
    category="merge",
    version=1,
    needs=("unlabelled", "gradients"),
    unit="tensor",
    base="unused",
    prepare=measure,
    collect=collect_fisher,
    workspace=Workspace(fixed=4.5, each=2),
    laws=("identity", "order", "shift", "single"),
    exempt={"scale_zero": "there is no scale"},
    compat={
        "paper": {},
        "fusion_bench": {"estimator": "mergelm", "floor": 0.0, "added": 1e-6},
    },
)
def fisher(
    experts: Sequence[Tensor], *, weights: PerExpert[float] = 1.0, normalize: bool = True,
    floor: Annotated[float, Range(0)] = 1e-6, added: Annotated[float, Range(0)] = 0.0,
    prepared: Sizes | None = None, stats: Sequence[Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Return Σ λᵢ·Fᵢ⊙θᵢ / Σ λᵢ·Fᵢ, entry by entry (arXiv:2111.09832, eq. 4 and 5).

    Args:
        experts: the same tensor from each fine-tuned model, of any shape.
        weights: λᵢ, at least 0, one an expert; the paper searches them on validation data.
        normalize: divide each expert's F by its length ‖Fᵢ‖₂ over all fused tensors, so that none drowns the others.
        floor: least F of an entry, as a share of the mean over all entries and experts: 1e-6, after the authors'
            `fisher_floor`; an entry that no expert's predictions hang on becomes the average.
        added: added to every raw F and to the length; 1e-6 in fusion_bench, where it is larger than most F.
        prepared: lengths and means over the whole model; without them those of the tensors at hand.
        stats: F of each expert, of the tensor's shape; without it the weighted average is taken.

    Raises:
        ConfigError: where a weight is negative or all are 0.

    Others: fusion_bench and MergeLM square the gradient of a batch's sum (`estimator=mergelm`), whose cross terms can
    cancel: for a logistic model with w = 0 and x = 2 it gives 0, and the Fisher information is 1. They add 1e-6 to F
    that are about 1e-8, which leaves plain averaging.
    """
    shares = shares_of(weights, len(experts))
    if stats is None:
        return _average(
            [torch.full_like(expert, share) for expert, share in zip(experts, shares, strict=True)], experts
        )
    sizes = prepared or measure(lambda: (), {}, statistics=lambda: iter([(None, stats)]))  # type: ignore[list-item]
    assert sizes is not None
    lengths = [norm + added if normalize else 1.0 for norm in sizes.norms]
    means = [mean / (length or 1.0) for mean, length in zip(sizes.means, lengths, strict=True)]
    least = floor * sum(means) / len(means)
    known = [
        share * ((information.to(expert.dtype) + added) / (length or 1.0)).clamp_min(least)
        for share, information, length, expert in zip(shares, stats, lengths, experts, strict=True)
    ]
    nothing = torch.stack(known).sum(dim=0) < TINY
    return _average([torch.where(nothing, share, k) for share, k in zip(shares, known, strict=True)], experts)


def _average(factors: Sequence[Tensor], experts: Sequence[Tensor]) -> Tensor:
    """Return θ₁ + Σ fᵢ·(θᵢ − θ₁) / Σ fᵢ, which keeps equal experts as they are to the bit."""
    first = experts[0]
    moved = torch.zeros_like(first)
    total = torch.zeros_like(first)
    for factor, expert in zip(factors, experts, strict=True):
        moved = moved + factor * (expert - first)
        total = total + factor
    return first + moved / total
