"""OPCM: add the experts one after another, each without what lies along the merged model's own directions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from fusionbench.methods._method import merge_method
from fusionbench.methods._rows import whole
from fusionbench.methods._spectral import factors, is_matrix, rounding
from fusionbench.methods._sums import gram
from fusionbench.parameters import Range
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

Projector = Literal["block", "cross"]
Chunks = Iterator[tuple[Site, Tensor, Sequence[Tensor]]]


def prepare_opcm(read: Callable[[], Chunks], at: Mapping[str, Mapping[str, Any]]) -> float:
    """Return λ, the norm of the sum over the mean norm of the task vectors, both of the whole model."""
    joint, squares = 0.0, []
    for site, base, experts in read():
        own = at[site.name]
        deltas = [expert - base for expert in experts]
        matrix = is_matrix(base, site, embeddings=own["embeddings"])
        joint += float(_squared(_accumulated(deltas, own["alpha"], own["projector"], matrix=matrix)))
        squares.append([float(_squared(delta)) for delta in deltas])
    norms = [sum(column) ** 0.5 for column in zip(*squares, strict=True)]
    return joint**0.5 * len(norms) / sum(norms) if joint > 0 and any(norms) else 1.0


@merge_method(
    "opcm",
    paper="arXiv:2501.09522",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    prepare=prepare_opcm,
    workspace=Workspace(fixed=20, each=1),
    laws=("identity", "single"),
    exempt={
        "order": "the experts come one after another, each projected against those before it",
        "scale_zero": "there is no scale: the mean norm of the task vectors takes its place",
        "shift": "rounding can reorder equal singular values, and which of them are projected out matters",
    },
)
def opcm(
    base: Tensor, experts: Sequence[Tensor], *, alpha: Annotated[float, Range(0, 1, open="right")] = 0.5,
    projector: Projector = "block", embeddings: bool = False, site: Site | None = None,
    prepared: float | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + τ/λ with τ the sum of successively projected task vectors (arXiv:2501.09522).

    Each further task matrix is written in the singular vectors of the sum so far, τ = U·P·Vᵀ; P loses its diagonal and
    its leading q×q block, where the first q singular values make up no more than α of their sum. λ is the norm of the
    sum over the mean norm of the task vectors, over the whole model. The paper rescales after every expert; those
    factors cancel, since neither U, V nor q depends on them, and only the last one is left.

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model, in the order in which they are added.
        alpha: share of the singular values' sum that is closed to later tasks, in [0, 1).
        projector: `block` clears the leading block, as the authors' code; `cross` the leading rows and columns.
        embeddings: project embedding tables and output heads too, not only linear layers.
        site: where the tensor stands; without it every two-dimensional tensor is a matrix.
        prepared: λ of the whole model; of this tensor alone where it is missing.

    Others: fusion_bench shuffles the experts, without a seed unless one is given, and counts buffers in the norms.
    """
    deltas = [expert - base for expert in experts]
    merged = _accumulated(deltas, alpha, projector, matrix=is_matrix(base, site, embeddings=embeddings))
    if prepared is not None:
        return base + (merged / prepared).to(base.dtype)
    norms = torch.stack([_squared(delta).sqrt() for delta in deltas])
    mean, length = norms.mean(), _squared(merged).sqrt()
    return base + (merged * torch.where(length > 0, mean / torch.where(length > 0, length, 1.0), 1.0)).to(base.dtype)


def _accumulated(deltas: Sequence[Tensor], alpha: float, projector: Projector, *, matrix: bool) -> Tensor:
    """Return the first task vector plus the projections of the others, in float64."""
    limit = rounding(deltas[0]) if matrix else 0.0
    merged = deltas[0].double()
    for delta in deltas[1:]:
        new = delta.double()
        merged = merged + (_projected(merged, new, alpha, projector, limit) if matrix else new)
    return merged


def _projected(merged: Tensor, delta: Tensor, alpha: float, projector: Projector, limit: float) -> Tensor:
    """Return what of a task matrix is left beside the merged one's directions."""
    found = factors(merged, limit)
    leading = found.values.cumsum(0) <= alpha * found.values.sum()
    left, right = found.left * leading, found.right * leading[:, None]
    diagonal = ((found.left.T @ delta) * found.right).sum(1)
    rest = delta - (found.left * diagonal) @ found.right
    if projector == "cross":
        rest = rest - left @ (left.T @ rest)
        return rest - (rest @ right.T) @ right
    return rest - left @ (left.T @ rest @ right.T) @ right


def _squared(tensor: Tensor) -> Tensor:
    """Return the sum of squares, 0-d float64."""
    return gram([whole(tensor)])[0, 0, 0]
