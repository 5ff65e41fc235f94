"""LiNeS: what another method merged, scaled layer by layer, less in the shallow ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.methods._inner import InnerMerge, inner_merge, prepared
from fusionbench.methods._method import merge_method
from fusionbench.methods._sums import absolute_sum
from fusionbench.parameters import Inner, Scale
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

Chunks = Iterator[tuple[Site, Tensor, Sequence[Tensor]]]
UNSCALED: Inner = {"name": "task_arithmetic", "scale": 1.0}


@dataclass(frozen=True, slots=True)
class Prepared:
    """The inner method after its first pass, and the factor of the shallowest layer where none was given."""

    merge: InnerMerge
    alpha: float | None


def prepare_lines(read: Callable[[], Chunks], at: Mapping[str, Mapping[str, Any]], *, inner: Inner) -> Prepared:
    """Prepare the inner method; where alpha is not given, weigh what it merges against the sum of the task vectors."""
    merge = prepared(_unscaled(inner), read, at)
    if all(own["alpha"] is not None for own in at.values()):
        return Prepared(merge, None)
    sums, merges, count = 0.0, 0.0, 1
    for site, base, experts in read():
        total, merged = _sizes(merge, base, experts, site)
        sums, merges, count = sums + float(total), merges + float(merged), len(experts)
    return Prepared(merge, sums / merges / count if merges > 0 else 1 / count)


@merge_method(
    "lines",
    paper="arXiv:2410.17146",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    prepare=prepare_lines,
    workspace=Workspace(fixed=3.5, each=0.3),
    laws=("identity", "order", "shift"),
    exempt={
        "scale_zero": "alpha = beta = 0 takes its place",
        "single": "a single task vector is scaled by depth too",
    },
)
def lines(
    base: Tensor, experts: Sequence[Tensor], *, inner: Inner = UNSCALED, alpha: Scale | None = None,
    beta: Scale = 0.5, site: Site | None = None, prepared: Prepared | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + (α + β·ℓ/(L−1))·τ with τ what the inner method merged, in block ℓ of L (arXiv:2410.17146).

    Outside of all blocks the factor is α; a stack of one block has α + β. Encoder and decoder are counted apart.

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model; one is edited: beta = 1 − alpha keeps its last block.
        inner: the method that merges, with scale 1.
        alpha: factor of the first block; by default ‖Σ τᵢ‖₁ / ‖τ‖₁ / N over the whole model, 1/N for a sum.
        beta: what the last block has more; searched on validation data, 0.1 to 1 for sums, 0.1 to 1.5 for TIES.
        site: block and depth of the tensor; without it the factor is α.
        prepared: the inner method and α of the whole model; of this tensor alone where it is missing.

    Raises:
        ConfigError: where the inner method has a scale of its own, or cannot merge tensor by tensor.

    Others: the authors find a block by the first ".i." in a name, which mistakes nested numbers.
    """
    merge = prepared.merge if prepared else _unscaled(inner)
    first: float | Tensor | None = alpha
    if first is None and prepared:
        first = prepared.alpha
    if first is None:
        total, size = _sizes(merge, base, experts, site)
        first = torch.where(size > 0, total / torch.where(size > 0, size, 1.0), 1.0).to(base.dtype) / len(experts)
    return base + (merge(base, experts, site) - base) * (first + beta * _depth(site))


def _unscaled(inner: Inner) -> InnerMerge:
    merge = inner_merge(inner, "lines")
    if merge.values.get("scale", 1.0) != 1.0:
        raise ConfigError(
            f"method.inner.scale={merge.values['scale']}: lines' own factors take its place. Set method.inner.scale=1."
        )
    return merge


def _sizes(merge: InnerMerge, base: Tensor, experts: Sequence[Tensor], site: Site | None) -> tuple[Tensor, Tensor]:
    """Return ‖Σ τᵢ‖₁ and ‖τ‖₁ of one tensor."""
    total = experts[0] - base
    for expert in experts[1:]:
        total = total + (expert - base)
    return absolute_sum(total), absolute_sum(merge(base, experts, site) - base)


def _depth(site: Site | None) -> float:
    """Return how deep a tensor stands, from 0 to 1."""
    if site is None or site.depth is None:
        return 0.0
    return site.depth / (site.depths - 1) if site.depths > 1 else 1.0
