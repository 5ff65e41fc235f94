"""TSV-M: each task keeps its leading singular directions, and all tasks' directions are made orthogonal together."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.kernels.selection import kept
from fusionbench.methods._method import merge_method
from fusionbench.methods._spectral import Rank, factors, is_matrix, limit_of, mean_of, polar
from fusionbench.parameters import Density, PerExpert, Scale, per_expert
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

_PEERS = {"embeddings": True, "rank": "full", "small": "keep"}


@merge_method(
    "tsv_m",
    paper="arXiv:2412.00081",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    workspace=Workspace(fixed=20.5, each=1),
    laws=("identity", "order", "scale_zero", "single"),
    exempt={"shift": "rounding can reorder equal singular values, and which of them are kept matters"},
    compat={"paper": {}, "official": _PEERS, "fusion_bench": _PEERS},
)
def tsv_m(
    base: Tensor, experts: Sequence[Tensor], *, scale: Scale = 1.0, weights: PerExpert[float] = 1.0,
    density: Density | None = None, embeddings: bool = False, rank: Rank = "numerical",
    small: Literal["mean", "keep"] = "mean", site: Site | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + α·U⊥·Σ·V⊥ᵀ of the tasks' joined leading singular triples (arXiv:2412.00081).

    U joins the leading k left vectors of every task, U⊥ = polar(U) is the nearest matrix with orthogonal columns; V
    likewise. Tensors that are no matrices get θ₀ + α·(mean of the task vectors).

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        scale: α; the paper uses 1, the authors search (0, 3].
        weights: one factor an expert on its task vector, before the decomposition.
        density: share of the min(m, n) singular directions that each expert keeps, at most 1/N; by default 1/N.
        embeddings: treat embedding tables and output heads as matrices too, not only linear layers.
        rank: `numerical` leaves out directions that rounding made; `full` lets them take part, as the peers do.
        small: what a matrix with no direction for each expert gets: the mean of the task vectors, or the base (peers).
        site: where the tensor stands; without it every two-dimensional tensor is a matrix.

    Raises:
        ConfigError: where the experts together would keep more directions than a matrix has.

    Others: the authors and fusion_bench decompose every two-dimensional tensor in float32 and leave the base where
    there are more experts than directions.
    """
    shares = per_expert(weights, len(experts))
    deltas = [(expert - base) * share for expert, share in zip(experts, shares, strict=True)]
    if not is_matrix(base, site, embeddings=embeddings):
        return base + mean_of(deltas) * scale
    count = _count(min(base.shape), len(experts), density)
    if count == 0:
        return base + mean_of(deltas) * scale if small == "mean" else base.clone()
    limit = limit_of(base, rank)
    parts = [factors(delta.double(), limit, count) for delta in deltas]
    left = polar(torch.cat([part.left for part in parts], dim=1), limit)
    right = polar(torch.cat([part.right for part in parts]), limit)
    merged = (left * torch.cat([part.values for part in parts])) @ right
    return base + (merged * scale).to(base.dtype)


def _count(size: int, experts: int, density: float | None) -> int:
    """Return how many singular directions of a matrix each expert keeps."""
    if density is None:
        return size // experts
    if density * experts > 1 + 1e-9:
        raise ConfigError(
            f"method.density={density:g} lets {experts} experts keep {density * experts:g} of a matrix's directions; "
            f"they cannot all be orthogonal. Expected at most 1/{experts} = {1 / experts:g}, the default."
        )
    return min(kept(density, size, "exact"), size // experts)
