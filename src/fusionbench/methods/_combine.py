"""How sparsified task vectors become one: their weighted sum, or an elected sign and what agrees with it."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusionbench.kernels.combine import divisor

Combine = Literal["linear", "ties"]
Disjoint = Literal["mean", "sum", "max"]
ElectOn = Literal["weighted", "unweighted"]


def combine_deltas(
    deltas: Sequence[Tensor],
    factors: Sequence[float],
    *,
    combine: Combine,
    normalize: bool,
    zero_sign: Literal["zero", "positive"],
) -> Tensor:
    """Return Σ wᵢ·τᵢ, over all entries or over those whose vote has the elected sign.

    Args:
        deltas: one task vector an expert, all of one shape.
        factors: wᵢ, one an expert.
        combine: `linear` takes all entries, `ties` those that agree with the sign of the weighted sum.
        normalize: divide by the sum of the weights that entered: of all experts, or entry by entry of those that agree.
        zero_sign: what a weighted sum of exactly zero elects: nothing, or plus.

    Raises:
        ConfigError: where the weights of a normalised linear combination sum to zero.
    """
    if combine == "linear":
        return weighted_sum(deltas, factors, normalize=normalize)
    sign = elect(deltas, factors, "weighted").sign()
    if zero_sign == "positive":
        sign = torch.where(sign == 0, 1.0, sign)
    return merge_agreeing(deltas, factors, sign, "mean" if normalize else "sum", "weighted")


def weighted_sum(deltas: Sequence[Tensor], factors: Sequence[float], *, normalize: bool) -> Tensor:
    """Return Σ wᵢ·τᵢ, divided by Σ wᵢ where `normalize`.

    Raises:
        ConfigError: where weights that are to be normalised sum to zero.
    """
    total = deltas[0] * factors[0]
    for delta, factor in zip(deltas[1:], factors[1:], strict=True):
        total = total + delta * factor
    return total / divisor(factors) if normalize else total


def elect(deltas: Sequence[Tensor], factors: Sequence[float], elect_on: ElectOn) -> Tensor:
    """Return the sum whose sign is elected."""
    total = torch.zeros_like(deltas[0])
    for delta, factor in zip(deltas, factors, strict=True):
        total = total + (delta * factor if elect_on == "weighted" else delta)
    return total


def merge_agreeing(
    deltas: Sequence[Tensor], factors: Sequence[float], sign: Tensor, combine: Disjoint, elect_on: ElectOn
) -> Tensor:
    """Return the mean over weights, the sum, or the largest of the entries whose vote has the elected sign."""
    merged, agreeing = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta, factor in zip(deltas, factors, strict=True):
        value = delta * factor
        agrees = (value if elect_on == "weighted" else delta) * sign > 0
        if combine == "max":
            merged = torch.where(agrees & (value.abs() > merged.abs()), value, merged)
        else:
            merged = torch.where(agrees, merged + value, merged)
            agreeing = torch.where(agrees, agreeing + factor, agreeing)
    return torch.where(agreeing != 0, merged / agreeing, merged) if combine == "mean" else merged
