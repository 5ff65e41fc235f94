"""DARE: drop entries of the task vectors at random, rescale the rest, then merge them by a sum or by TIES."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.kernels.selection import Keep
from fusionbench.kernels.thin import THIN
from fusionbench.methods import ties as ties_method
from fusionbench.methods._combine import Combine, weighted_sum
from fusionbench.methods._method import merge_method
from fusionbench.methods._random import uniform
from fusionbench.methods._sparsify import Rescale, norm_ratio, place_of, rescaled
from fusionbench.methods._sums import absolute_sum
from fusionbench.parameters import Count, Density, PerExpert, Scale, per_expert
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

Chunks = Iterator[tuple[Site, Tensor, Sequence[Tensor]]]
Ratios = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the first passes found: ‖τ‖₁/‖M∘τ‖₁ by tensor and expert, and the cuts of a TIES that follows."""

    ratios: Ratios
    ties: ties_method.Prepared | None


def prepare_dare(
    read: Callable[[], Chunks], at: Mapping[str, Mapping[str, Any]], *, combine: Combine, rescale: Rescale,
    ties_density: Any, keep: Keep, zero_sign: ties_method.ZeroSign,
) -> Prepared:  # fmt: skip
    """Sum magnitudes where they are matched, and find the cuts of the thinned task vectors where TIES trims them.

    Args:
        read: starts a pass over the whole model, in chunks.
        at: each tensor's own parameters, by its name.
        combine: how the thinned task vectors are merged.
        rescale: "norm" matches the sum of magnitudes of each tensor, which takes one pass here.
        ties_density: share that TIES keeps of the thinned task vectors, one for the whole model.
        keep: how many entries that is, and which of equal magnitude.
        zero_sign: what an exact tie elects.

    Raises:
        ConfigError: where `ties_density` differs between tensors, or does not fit `combine`.
    """
    trims = {name: {**own, "density": own["ties_density"]} for name, own in at.items()}
    if len({own["density"] for own in trims.values()}) > 1:
        raise ConfigError(f"method.ties_density is one share of the whole model; got {ties_density} by tensor.")
    for own in at.values():
        _check(combine, own["ties_density"])
    ratios = _ratios(read(), at) if rescale == "norm" else {}
    if combine == "linear":
        return Prepared(ratios, None)

    def thinned() -> Chunks:
        for site, base, experts in read():
            own = {key: at[site.name][key] for key in ("density", "rescale", "min_entries")}
            yield site, torch.zeros_like(base), _thin(base, experts, site, ratios=ratios, **own)

    cuts = ties_method.prepare_ties(
        thinned, trims, density=ties_density, weights=None, scope="model", keep=keep, trim="magnitude",
        zero_sign=zero_sign, elect_on="weighted",
    )  # fmt: skip
    return Prepared(ratios, cuts)


def _check(combine: Combine, ties_density: float) -> None:
    if combine == "linear" and ties_density < 1:
        raise ConfigError(
            f"method.ties_density={ties_density} trims for TIES: add method.combine=ties, or leave it at 1."
        )


def _ratios(chunks: Chunks, at: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Tensor]]:
    """Return ‖τ‖₁ / ‖M∘τ‖₁ of each tensor and expert, summed block by block."""
    sums: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for site, base, experts in chunks:
        own = at[site.name]
        deltas = [expert - base for expert in experts]
        kept = _thin(base, experts, site, own["density"], "none", own["min_entries"], {})
        found = [absolute_sum(part) for part in kept], [absolute_sum(delta) for delta in deltas]
        before = sums.get(site.name)
        sums[site.name] = found if before is None else (_added(before[0], found[0]), _added(before[1], found[1]))
    return {name: [norm_ratio(k, a) for k, a in zip(*found, strict=True)] for name, found in sums.items()}


def _added(totals: Sequence[Tensor], more: Sequence[Tensor]) -> list[Tensor]:
    return [total + part for total, part in zip(totals, more, strict=True)]


@merge_method(
    "dare",
    paper="arXiv:2311.03099",
    kind="stream",
    category="merge",
    version=2,
    kernel=THIN,
    prepare=prepare_dare,
    workspace=Workspace(fixed=15.5, each=3.1),
    laws=("identity", "scale_zero", "shift"),
    exempt={
        "order": "masks are drawn by the experts' names: the order is no matter only where the names move along",
        "single": "a single task vector is thinned too",
    },
    compat={
        "paper": {},
        "fusion_bench": {"keep": "official", "zero_sign": "majority"},
        "mergekit": {"rescale": "norm", "zero_sign": "positive"},
    },
)
def dare(
    base: Tensor, experts: Sequence[Tensor], *, density: PerExpert[Density] = 0.5, weights: PerExpert[float] = 1.0,
    scale: Scale = 0.3, combine: Combine = "linear", normalize: bool = False, rescale: Rescale = "inverse",
    ties_density: Density = 1.0, keep: Keep = "exact", zero_sign: ties_method.ZeroSign = "zero",
    min_entries: Count = 1, site: Site | None = None, prepared: Prepared | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + λ·Σ wᵢ·(Mᵢ∘τᵢ)/(1−p), Mᵢ keeping each entry with probability 1−p (arXiv:2311.03099, Eq. 3 to 5).

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        density: 1−p, the probability with which an entry is kept; the paper goes down to 0.1, and 0.01 for large
            models.
        weights: one factor an expert on its thinned task vector.
        scale: λ; as in task arithmetic for the sum, 1 where the weights are normalised.
        combine: the weighted sum of the thinned task vectors, or TIES on them: elect a sign, merge what agrees.
        normalize: divide by the sum of the weights that entered; with `ties` that is the disjoint mean of its paper.
        rescale: `inverse` divides by the density (paper); `norm` gives each tensor its ‖τ‖₁ back (mergekit); `none`
            leaves the entries.
        ties_density: share of the whole thinned task vector that TIES keeps, dropped entries counted; 1 for no trim.
        keep: how many entries that share is: exactly ⌊density·size⌋, or one more and its ties (`official`).
        zero_sign: what an exact tie elects: nothing, the sign that most entries elect (official), or plus (mergekit).
        min_entries: tensors with fewer entries are not thinned.
        site: which tensor and chunk this is; masks are functions of it.
        prepared: what the first passes found; without them the tensor at hand stands for the model.

    Raises:
        ConfigError: where `ties_density` is given without `combine=ties`, or normalised weights sum to zero.

    Others: fusion_bench and the authors draw from the global generator in the order of the tensors: other masks, of the
    same distribution.
    """
    _check(combine, ties_density)
    place = place_of(site, base, experts)
    deltas = _thin(base, experts, place, density, rescale, min_entries, {} if prepared is None else prepared.ratios)
    factors = per_expert(weights, len(experts))
    if combine == "linear":
        return base + weighted_sum(deltas, factors, normalize=normalize) * scale
    return base + ties_method.ties(
        torch.zeros_like(base), deltas, density=ties_density, weights=factors, scale=scale,
        combine="mean" if normalize else "sum", keep=keep, zero_sign=zero_sign, site=place,
        prepared=None if prepared is None else prepared.ties,
    )  # fmt: skip


def _thin(
    base: Tensor, experts: Sequence[Tensor], site: Site, density: Any, rescale: Rescale, min_entries: int,
    ratios: Ratios,
) -> list[Tensor]:  # fmt: skip
    """Return the task vectors, dropped entries zero and the others rescaled."""
    small = math.prod(site.shape) < min_entries
    thinned = []
    for i, (expert, share) in enumerate(zip(experts, per_expert(density, len(experts)), strict=True)):
        delta = expert - base
        if share < 1 and not small:
            kept = torch.where(uniform(site, site.experts[i], delta) < share, delta, 0.0)
            known = rescale == "norm" and site.name in ratios
            delta = kept * ratios[site.name][i].to(kept.dtype) if known else rescaled(kept, delta, share, rescale)
        thinned.append(delta)
    return thinned
