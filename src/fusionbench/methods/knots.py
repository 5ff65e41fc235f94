"""KnOTS: merge the experts' updates in a basis that they share, instead of entry by entry."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fusionbench.methods._inner import InnerMerge, inner_merge, prepared
from fusionbench.methods._method import merge_method
from fusionbench.methods._spectral import is_matrix, oriented
from fusionbench.parameters import Inner, Share
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

Cut = Literal["relative", "absolute"]
Joined = Literal["inputs", "outputs"]
Chunks = Iterator[tuple[Site, Tensor, Sequence[Tensor]]]
TIES: Inner = {"name": "ties"}
LINEAR = ("task_arithmetic",)
"""Inner methods that directions without weight cannot change, so that they need not be counted beforehand."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The inner method after its first pass over all layers, and how many directions each layer has."""

    merge: InnerMerge
    ranks: Mapping[str, int]


def prepare_knots(read: Callable[[], Chunks], at: Mapping[str, Mapping[str, Any]], *, inner: Inner) -> Prepared:
    """Count the directions of each layer, and let the inner method look at all layers' representations."""
    merge = inner_merge(inner, "knots", on_deltas=True)
    if merge.entry.name in LINEAR:
        return Prepared(merge, {})
    ranks: dict[str, int] = {}

    def represented() -> Chunks:
        for site, base, experts in read():
            own = at[site.name]
            deltas = [expert - base for expert in experts]
            if is_matrix(base, site, embeddings=own["embeddings"]):
                _, live, parts = _represented(deltas, site, own["tolerance"], own["cut"], own["joined"])
                ranks[site.name] = int(live.sum())
                parts = [part[: ranks[site.name]] for part in parts]
                yield replace(site, shape=tuple(parts[0].shape)), torch.zeros_like(parts[0]), parts
            elif own["others"] == "merge":
                yield site, torch.zeros_like(base), deltas

    merge = prepared(merge, represented, at)
    if not ranks:
        for _ in represented():
            pass
    return Prepared(merge, ranks)


@merge_method(
    "knots",
    paper="arXiv:2410.19735",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    prepare=prepare_knots,
    workspace=Workspace(fixed=2, each=4.4, squares=9.1, side="longer"),
    laws=("identity", "order"),
    exempt={
        "scale_zero": "the scale is the inner method's",
        "shift": "rounding can change which entries the inner method keeps",
        "single": "the inner method trims or scales a single task vector too",
    },
    compat={
        "paper": {},
        "official": {"cut": "absolute"},
        "fusion_bench": {"cut": "absolute", "tolerance": 1e-4},
    },
)
def knots(
    base: Tensor, experts: Sequence[Tensor], *, inner: Inner = TIES, tolerance: Share = 1e-5,
    cut: Cut = "relative", joined: Joined = "inputs", others: Literal["keep", "merge"] = "keep",
    embeddings: bool = False, site: Site | None = None, prepared: Prepared | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + U·R, R what the inner method makes of the experts' representations (arXiv:2410.19735).

    The task matrices joined side by side are U·Σ·[V₁ … V_N]ᵀ; expert i is represented by Rᵢ = Σ·Vᵢᵀ = Uᵀ·τᵢ. The inner
    method merges R₁ … R_N over zeros; with TIES the representations of all layers are trimmed together.

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        inner: any stream method on deltas to a base that needs no data. Linear ones give what they give without KnOTS.
        tolerance: directions with singular values up to this are dropped.
        cut: whether the tolerance is a share of the largest singular value, or a value (the peers).
        joined: along which axis of the layers the task matrices are joined.
        others: what tensors that are no matrices get: the base, or what the inner method makes of their task vectors.
        embeddings: treat embedding tables and output heads as matrices too, not only linear layers.
        site: where the tensor stands, and which axis holds the outputs; without it every two-dimensional tensor is a
            matrix, `(outputs, inputs)`.
        prepared: the inner method and the directions of all layers; without it the layer is merged by itself, its
            dropped directions counted as entries of zero.

    Raises:
        ConfigError: where the inner method does not work on task vectors tensor by tensor.

    Others: the authors and fusion_bench drop singular values by an absolute size; the authors join a layer's bias to
    its matrix.
    """
    merge = prepared.merge if prepared else inner_merge(inner, "knots", on_deltas=True)
    deltas = [expert - base for expert in experts]
    if not is_matrix(base, site, embeddings=embeddings):
        return base + merge(torch.zeros_like(base), deltas, site) if others == "merge" else base.clone()
    basis, _, parts = _represented(deltas, site, tolerance, cut, joined)
    rank = prepared.ranks.get(site.name) if prepared and site else None
    parts = [part[:rank] for part in parts]
    place = replace(site, shape=tuple(parts[0].shape)) if site else None
    merged = basis[:, :rank] @ merge(torch.zeros_like(parts[0]), parts, place).double()
    return base + oriented(merged if joined == "inputs" else merged.T, site).to(base.dtype)


def _represented(
    deltas: Sequence[Tensor], site: Site | None, tolerance: float, cut: Cut, joined: Joined
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the shared basis, which of its directions are kept (the first ones), and each expert's coordinates in it.

    The left singular vectors of the joined matrices are the eigenvectors of the sum of their Gram matrices. In dropped
    directions the basis and the coordinates are zero. The coordinates are of the experts' own precision.
    """
    matrices = [oriented(delta, site) for delta in deltas]
    if joined == "outputs":
        matrices = [matrix.T for matrix in matrices]
    # One expert at a time is in float64.
    total = matrices[0].double() @ matrices[0].double().T
    for matrix in map(Tensor.double, matrices[1:]):
        total += matrix @ matrix.T
    squares, vectors = torch.linalg.eigh(total)
    values = squares.flip(0).clamp(min=0).sqrt()
    live = values > (tolerance * values[0] if cut == "relative" else tolerance)
    basis = vectors.flip(1) * live
    return basis, live, [(basis.T @ matrix.double()).to(deltas[0].dtype) for matrix in matrices]
