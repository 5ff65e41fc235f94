"""Consensus merging: keep of the merged task vector what several tasks need, as their TALL masks say."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from fusionbench.methods._inner import InnerMerge, inner_merge, prepared
from fusionbench.methods._method import merge_method
from fusionbench.parameters import Inner, PerExpert, Range, Scale, per_expert
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

Chunks = Iterator[tuple[Site, Tensor, Sequence[Tensor]]]
SUM: Inner = {"name": "task_arithmetic", "scale": 1.0}
Threshold = Annotated[float, Range(0)]


def tall_masks(deltas: Sequence[Tensor], merged: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Return 1[|τₜ| > λₜ·|τ − τₜ|], `(experts, *shape)`: where a task's own part outweighs the others'.

    Args:
        deltas: τₜ, one task vector an expert.
        merged: τ, the multi-task vector.
        thresholds: λₜ, one an expert.

    Others: the paper writes ≥; the authors' code compares strictly, so that entries nobody moved are in no mask.
    """
    return torch.stack([d.abs() > t * (merged - d).abs() for d, t in zip(deltas, thresholds, strict=True)])


def prepare_consensus(read: Callable[[], Chunks], at: Mapping[str, Mapping[str, Any]], *, inner: Inner) -> InnerMerge:
    """Let the inner method look at the whole model."""
    return prepared(_merge(inner), read, at)


@merge_method(
    "consensus",
    paper="arXiv:2405.07813",
    kind="stream",
    category="merge",
    version=1,
    prepare=prepare_consensus,
    workspace=Workspace(fixed=0.5, each=3.3),
    laws=("identity", "order", "scale_zero"),
    exempt={
        "shift": "deltas are rounded differently when all inputs move, which can change which entries are kept",
        "single": "fewer experts than `minimum` give the base",
    },
)
def consensus(
    base: Tensor, experts: Sequence[Tensor], *, threshold: PerExpert[Threshold] = 0.4,
    minimum: Annotated[int, Range(0)] = 2, scale: Scale = 0.3, inner: Inner = SUM, site: Site | None = None,
    prepared: InnerMerge | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + α·m⊙τ with m = 1[Σₜ mₜ ≥ k] over the tasks' TALL masks (arXiv:2405.07813).

    Entries that no task needs, or only one, are dropped.

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        threshold: λₜ of the masks, one or one an expert; the authors choose each from 0.2 to 0.6 on validation data.
        minimum: k, in how many masks an entry must be; 0 keeps all, more than there are experts gives the base.
        scale: α; searched on validation data.
        inner: the method that makes τ of the task vectors, entry by entry; the authors take their sum, or TIES with
            `{name: ties, combine: sum}`.
        site: where the tensor stands.
        prepared: the inner method after its first pass.

    Raises:
        ConfigError: where the inner method needs whole tensors, or does not work on task vectors.

    Others: fusion_bench has the masks only.
    """
    merge = prepared or _merge(inner)
    deltas = [expert - base for expert in experts]
    merged = merge(torch.zeros_like(base), deltas, site)
    chosen = tall_masks(deltas, merged, per_expert(threshold, len(experts))).sum(0) >= minimum
    return base + merged * chosen * scale


def _merge(inner: Inner) -> InnerMerge:
    return inner_merge(inner, "consensus", on_deltas=True, unit="element")
