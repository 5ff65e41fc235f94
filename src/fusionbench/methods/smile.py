"""SMILE: each linear map keeps its experts' differences as low-rank maps; a token is sent to those that hear it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.methods._method import merge_method
from fusionbench.methods._outside import base_or_average
from fusionbench.mixing.sites import ModuleSite, Replacement, linear_sites, oriented, put
from fusionbench.parameters import Count, Range

Rank = Annotated[int, Range(0)]


def check_smile(experts: Sequence[str], *, top_k: int) -> None:
    """Refuse more experts a token than there are.

    Raises:
        ConfigError: with both numbers.
    """
    if top_k > len(experts):
        raise ConfigError(f"method.top_k={top_k} experts a token cannot be chosen of {len(experts)}. Lower it.")


@merge_method(
    "smile",
    paper="arXiv:2408.10174",
    kind="rebuild",
    category="mix",
    version=1,
    parts=("linears",),
    sites=linear_sites,
    rest=base_or_average,
    check=check_smile,
)
def smile(
    site: ModuleSite, base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], *,
    gate_k: Count = 16, k: Rank = 128, top_k: Count = 1, gate: Literal["delta", "weight"] = "delta",
) -> Replacement | None:  # fmt: skip
    """Return y = W₀·x + b₀ + Σ_{i in top-k} pᵢ·(Uᵢ·Σᵢ·Vᵢᵀ·x + Δbᵢ), p the softmax of ‖V̂ᵢᵀ·x‖ (arXiv:2408.10174, §4).

    Uᵢ, Σᵢ, Vᵢ are the k leading singular triples of ΔWᵢ, V̂ᵢ its leading `gate_k` right singular vectors; the shares of
    the chosen experts are divided by their sum. No data and no training.

    Args:
        site: a linear map.
        base: "weight" and, where there is one, "bias".
        experts: the same of each expert.
        gate_k: leading right singular vectors that score an expert; the paper's CLIP rows have 16, its Mistral 8.
        k: rank of the experts, 0 for dense ones (ΔWᵢ itself); the paper's CLIP rows have 128, its Mistral 512.
        top_k: experts a token; the paper's is 1, which makes the chosen expert's share exactly 1.
        gate: take the gate's directions from ΔWᵢ, or from the fine-tuned weight.

    Returns:
        The map with its experts; None where no expert differs from the base, so that the map stays as it is.

    Raises:
        ConfigError: where the map has fewer directions than are asked for.
    """
    inputs_last = site.linears[""]
    origin = oriented(base["weight"], inputs_last)
    _check_ranks(site.name, tuple(origin.shape), gate_k, k)
    tensors, count, live = dict(base), len(experts), False
    for number, expert in enumerate(experts):
        delta = oriented(expert["weight"], inputs_last) - origin
        live = live or bool((delta.abs() > 1e-8).any())
        left, values, right = torch.linalg.svd(delta, full_matrices=False)
        if count > 1:
            heard = right if gate == "delta" else torch.linalg.svd(origin + delta, full_matrices=False)[2]
            put(tensors, "gate", number, count, heard[:gate_k])
        put(tensors, "right", number, count, values[:k, None] * right[:k] if k else delta)
        if k:
            put(tensors, "left", number, count, left[:, :k])
        if "bias" in base:
            shift = expert["bias"] - base["bias"]
            put(tensors, "shift", number, count, shift)
            live = live or bool((shift.abs() > 1e-8).any())
    if not live:
        return None
    settings = {"experts": len(experts), "router": gate_k, "rank": k, "top": top_k, "inputs_last": inputs_last}
    return Replacement(tensors, "smile", settings)


def _check_ranks(name: str, shape: tuple[int, ...], gate_k: int, k: int) -> None:
    for parameter, value in (("gate_k", gate_k), ("k", k)):
        if value > min(shape):
            raise ConfigError(
                f"method.{parameter}={value}: {name} is {shape[0]}×{shape[1]} and has {min(shape)} directions. "
                f"Choose at most {min(shape)}{', or k=0 for dense experts' if parameter == 'k' else ''}."
            )
