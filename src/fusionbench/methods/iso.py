"""Isotropic merging: the merged task matrix keeps its directions, and all of them get the same singular value."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fusionbench.kernels.selection import kept
from fusionbench.methods._method import merge_method
from fusionbench.methods._spectral import Rank, factors, is_matrix, limit_of, mean_of, oriented, polar
from fusionbench.parameters import Scale, Share
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

_PEERS = {"embeddings": True, "rank": "full"}
_SINGLE = {"single": "a single task vector's spectrum is flattened too"}


@merge_method(
    "iso_c",
    paper="arXiv:2502.04959",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    workspace=Workspace(fixed=14, each=1),
    laws=("identity", "order", "scale_zero"),
    exempt={**_SINGLE, "shift": "deltas are rounded differently when all inputs move, which can add a direction"},
    compat={"paper": {}, "official": _PEERS, "fusion_bench": _PEERS},
)
def iso_c(
    base: Tensor, experts: Sequence[Tensor], *, scale: Scale = 1.0, embeddings: bool = False,
    rank: Rank = "numerical", site: Site | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + α·σ̄·polar(Σ τᵢ) with σ̄ the mean singular value of Σ τᵢ (arXiv:2502.04959).

    Tensors that are no matrices get θ₀ + α·(mean of the task vectors).

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        scale: α; searched on validation data in (0, 3] by the authors.
        embeddings: treat embedding tables and output heads as matrices too, not only linear layers.
        rank: `numerical` leaves directions alone that the sum does not have (low-rank adapters); `full` gives them σ̄
            too, as the peers do, although they are arbitrary.
        site: where the tensor stands; without it every two-dimensional tensor is a matrix.
    """
    deltas = [expert - base for expert in experts]
    if not is_matrix(base, site, embeddings=embeddings):
        return base + mean_of(deltas) * scale
    return base + (_flattened(_total(deltas), limit_of(base, rank)) * scale).to(base.dtype)


@merge_method(
    "iso_cts",
    paper="arXiv:2502.04959",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    workspace=Workspace(fixed=26.5, each=1),
    laws=("identity", "order", "scale_zero"),
    exempt={**_SINGLE, "shift": "rounding can reorder equal singular values, and which of them are kept matters"},
    compat={"paper": {}, "official": _PEERS, "fusion_bench": _PEERS},
)
def iso_cts(
    base: Tensor, experts: Sequence[Tensor], *, scale: Scale = 1.0, common: Share = 0.8, embeddings: bool = False,
    rank: Rank = "numerical", site: Site | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + α·σ̄·polar(U)·polar(V)ᵀ of common and task-specific directions (arXiv:2502.04959).

    The common directions are the leading singular ones of Σ τᵢ; what each task has outside of them (a projection from
    the left, by outputs) adds its own leading ones. σ̄ is the mean of all their singular values. Without room for a
    direction of every task this is Iso-C. Tensors that are no matrices get θ₀ + α·(mean of the task vectors).

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        scale: α; searched on validation data in (0, 3] by the authors.
        common: share of the min(m, n) directions that is common before the rest is divided among the tasks.
        embeddings: treat embedding tables and output heads as matrices too, not only linear layers.
        rank: `numerical` leaves out directions that rounding made; `full` lets them take part, as the peers do.
        site: where the tensor stands, and which axis holds the outputs; without it every two-dimensional tensor is a
            matrix, `(outputs, inputs)`.

    Others: the same; with few common directions and many tasks the peers' rounding asks for more directions than there
    are, here each task has one less.
    """
    deltas = [expert - base for expert in experts]
    if not is_matrix(base, site, embeddings=embeddings):
        return base + mean_of(deltas) * scale
    limit = limit_of(base, rank)
    matrices = [oriented(delta, site) for delta in deltas]
    specific = _specific(min(base.shape), len(experts), common)
    merged = _joined(matrices, specific, limit) if specific else _flattened(_total(matrices), limit)
    return base + (oriented(merged, site) * scale).to(base.dtype)


def _total(deltas: Sequence[Tensor]) -> Tensor:
    total = deltas[0].double()
    for delta in deltas[1:]:
        total = total + delta.double()
    return total


def _flattened(matrix: Tensor, limit: float | None) -> Tensor:
    """Return a matrix with every singular value replaced by the mean of them all."""
    found = factors(matrix, limit)
    return (found.left @ found.right) * found.values.mean()


def _specific(size: int, experts: int, common: float) -> int:
    """Return how many directions each task has of its own; halves go to the even number, as in the authors' code."""
    rest = size - kept(common, size, "exact")
    return min(round(rest / experts), size // experts)


def _joined(deltas: Sequence[Tensor], specific: int, limit: float | None) -> Tensor:
    total = _total(deltas)
    shared = factors(total, limit, min(total.shape) - specific * len(deltas))
    parts = []
    for delta in map(Tensor.double, deltas):
        rest = delta - shared.left @ (shared.left.T @ delta)
        parts.append(factors(rest, limit, specific, torch.linalg.matrix_norm(delta)))
    parts.append(shared)
    left = polar(torch.cat([part.left for part in parts], dim=1), limit)
    right = polar(torch.cat([part.right for part in parts]), limit)
    return (left @ right) * torch.cat([part.values for part in parts]).mean()
