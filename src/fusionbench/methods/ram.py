"""RAM: average what several experts changed, keep whole what only one changed, and perhaps let that grow."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from fusionbench.methods._method import merge_method
from fusionbench.parameters import Range
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

Chunks = Iterator[tuple[Site, Tensor, Sequence[Tensor]]]
NotNegative = Annotated[float, Range(0)]
Scope = Literal["model", "tensor"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """How many entries each expert changed together with others, over how many it changed alone: `(experts,)`."""

    model: Tensor | None
    tensors: Mapping[str, Tensor]


def prepare_ram(read: Callable[[], Chunks], at: Mapping[str, Mapping[str, Any]], *, scope: Scope) -> Prepared | None:
    """Count shared and own entries of each expert; not where nothing grows."""
    if all(own["gain"] == 0 for own in at.values()):
        return None
    found: dict[str, Tensor] = {}
    for site, base, experts in read():
        counted = _counts(_active(base, experts, at[site.name]["epsilon"])[1])
        found[site.name] = found[site.name] + counted if site.name in found else counted
    if scope == "tensor":
        return Prepared(None, {name: _ratio(counts) for name, counts in found.items()})
    return Prepared(_ratio(torch.stack([*found.values()]).sum(0)) if found else None, {})


@merge_method(
    "ram",
    paper="arXiv:2601.13572",
    kind="stream",
    category="merge",
    version=1,
    prepare=prepare_ram,
    workspace=Workspace(fixed=4.5, each=3.6),
    laws=("identity", "order"),
    exempt={
        "scale_zero": "there is no scale",
        "shift": "deltas are rounded differently when all inputs move, which can change which entries count as changed",
        "single": "changes of no more than epsilon are left out",
    },
    compat={"paper": {}, "mergekit": {"scope": "tensor"}},
)
def ram(
    base: Tensor, experts: Sequence[Tensor], *, gain: NotNegative = 0.0, most: NotNegative = 0.2,
    epsilon: NotNegative = 1e-5, scope: Scope = "model", site: Site | None = None, prepared: Prepared | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + the mean of the deltas that changed an entry; alone ones times 1 + r·min(ρᵢ, α) (arXiv:2601.13572).

    An expert changed an entry where |τᵢ| > ε; only experts that did enter its mean. ρᵢ = entries that expert i changed
    together with others / entries that it changed alone.

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        gain: r, how much an expert's own entries grow with ρᵢ to make up for what the means take from its shared ones;
            0 is RAM, more is RAM+ (mergekit's ramplus_tl: 0.1).
        most: α, the largest ρᵢ that counts.
        epsilon: ε, in the weights' own unit: smaller changes are taken for none.
        scope: whether entries are counted over the whole model, or in each tensor (mergekit).
        site: which tensor and chunk this is; given by the engine.
        prepared: the counts of the whole model; without them the tensor at hand stands for it.

    Others: mergekit counts tensor by tensor, hence its name "tensor-local".
    """
    deltas, active = _active(base, experts, epsilon)
    holders = _holders(active)
    ratios = _ratio(_counts(active)) if prepared is None else _known(prepared, site)
    growth = (1 + gain * ratios.to(base.device).clamp(0, most)).to(base.dtype)
    merged = torch.zeros_like(base)
    for delta, changed, factor in zip(deltas, active, growth.unbind(), strict=True):
        own = torch.where(holders == 1, delta * factor, delta)
        merged = merged + torch.where(changed, own, 0.0)
    return base + merged / holders.clamp(min=1)


def _known(prepared: Prepared, site: Site | None) -> Tensor:
    return prepared.model if prepared.model is not None else prepared.tensors[site.name if site else ""]


def _active(base: Tensor, experts: Sequence[Tensor], epsilon: float) -> tuple[list[Tensor], list[Tensor]]:
    """Return the deltas, and a mask of the entries that each changed."""
    deltas = [expert - base for expert in experts]
    return deltas, [delta.abs() > epsilon for delta in deltas]


def _holders(active: Sequence[Tensor]) -> Tensor:
    """Return how many experts changed each entry."""
    return torch.stack([*active]).sum(0)


def _counts(active: Sequence[Tensor]) -> Tensor:
    """Return how many entries each expert changed with others, and alone: `(2, experts)`, int64."""
    holders = _holders(active)
    return torch.stack(
        [torch.stack([(mask & (holders > 1)).sum(), (mask & (holders == 1)).sum()]) for mask in active]
    ).T


def _ratio(counts: Tensor) -> Tensor:
    """Return ρ of each expert; where it changed nothing alone, nothing of it grows."""
    shared, alone = counts.double()
    return torch.where(alone > 0, shared / alone.clamp(min=1), 0.0)
