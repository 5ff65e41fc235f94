"""Singular projection: of a fine-tuned model's change, what lies in some singular directions of the base's weights."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.methods._method import merge_method
from fusionbench.methods._one_expert import check_expert
from fusionbench.mixing.sites import ModuleSite, Replacement, linear_sites, oriented
from fusionbench.parameters import Count
from fusionbench.weights.stacking import index_of

Zone = Literal["I", "II", "II+III"]


def of_expert(base: Tensor, experts: Sequence[Tensor], *, site: ModuleSite, expert: str | None = None) -> Tensor:
    """Return the fine-tuned model's tensor.

    Args:
        base: a tensor of the pretrained model.
        experts: the same tensor of each expert.
        site: names of the experts.
        expert: the fine-tuned model, by name; the only one need not be named.
    """
    return experts[index_of(expert, site.experts)]


@merge_method(
    "singular_projection",
    paper="arXiv:2408.10174",
    kind="rebuild",
    category="mix",
    version=1,
    parts=("linears",),
    sites=linear_sites,
    rest=of_expert,
    check=check_expert,
)
def singular_projection(
    site: ModuleSite, base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], *,
    expert: str | None = None, k: Count | None = None, zone: Zone = "I",
) -> Replacement:  # fmt: skip
    """Return W₀ + U_K·U_Kᵀ·(W − W₀)·V_K·V_Kᵀ with W₀ = U·Σ·Vᵀ (arXiv:2408.10174, §3): one expert, in part.

    All that is not the weight of a linear map is the expert's.

    Args:
        site: a linear map.
        base: "weight" and, where there is one, "bias".
        experts: the same of each expert.
        expert: the fine-tuned model, by name; the only one need not be named.
        k: directions of the first zone; by default the fewest whose singular values are half of the sum of all.
        zone: which directions K are kept: the first k (I), all others that have a singular value (II), or with them
            those that the base does not use at all (II+III).

    Raises:
        ConfigError: where a map has fewer than k directions.
    """
    chosen = experts[index_of(expert, site.experts)]
    inputs_last = site.linears[""]
    origin = oriented(base["weight"], inputs_last)
    delta = oriented(chosen["weight"], inputs_last) - origin
    left, values, right = torch.linalg.svd(origin, full_matrices=zone == "II+III")
    count = _half(values) if k is None else k
    if count > len(values):
        raise ConfigError(
            f"method.k={k}: {site.name} is {'×'.join(map(str, origin.shape))} and has {len(values)} directions. "
            f"Choose at most {len(values)}."
        )
    outputs, inputs = (left[:, :count], right[:count]) if zone == "I" else (left[:, count:], right[count:])
    weight = origin + outputs @ (outputs.T @ delta @ inputs.T) @ inputs
    return Replacement({**chosen, "weight": oriented(weight, inputs_last)})


def _half(values: Tensor) -> int:
    """Return the fewest leading singular values that are at least half of the sum of all."""
    return 1 + int((values.double().cumsum(0) < 0.5 * values.double().sum()).sum())
