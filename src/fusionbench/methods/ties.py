"""TIES: trim the task vectors, elect a sign for every entry, merge the entries that agree with it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fusionbench.kernels.consensus import CONSENSUS
from fusionbench.kernels.selection import Keep, Scope, Thresholds, kept, thresholds, tiles_of
from fusionbench.methods._combine import Disjoint, ElectOn, elect, merge_agreeing
from fusionbench.methods._method import merge_method
from fusionbench.methods._random import uniform
from fusionbench.parameters import Density, PerExpert, Scale, per_expert
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

Chunks = Iterator[tuple[Site, Tensor, Sequence[Tensor]]]
ZeroSign = Literal["zero", "majority", "positive"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the first passes found: the cuts, and the sign that most entries elect."""

    thresholds: Thresholds | None
    majority: float


def prepare_ties(
    read: Callable[[], Chunks], at: Mapping[str, Mapping[str, Any]], *, density: Any, weights: Any, scope: Scope,
    keep: Keep, trim: Literal["magnitude", "random"], zero_sign: ZeroSign, elect_on: ElectOn,
) -> Prepared:  # fmt: skip
    """Find the cuts of all tensors, and where an exact tie follows the majority, that sign.

    Args:
        read: starts a pass over the whole model, in chunks.
        at: each tensor's own parameters, by its name.
        density: share of entries that is kept, of all tensors alike or by tensor.
        weights: of the experts; each tensor's own are read from `at`.
        scope: among which entries the largest are kept.
        keep: how many of them, and which of equal magnitude.
        trim: by magnitude, or at random.
        zero_sign: what an exact tie elects; "majority" takes one more pass.
        elect_on: whether signs are elected by weighted or by unweighted task vectors.
    """
    scan = tiles_of(read if trim == "magnitude" else lambda: _draws(read()))
    cuts = thresholds(scan, at, scope=scope, keep=keep)
    found = Prepared(cuts, 0.0)
    if zero_sign != "majority":
        return found
    total = 0.0
    for site, base, experts in read():
        deltas = _trimmed(base, experts, density, trim, keep, site, found)
        total += float(elect(deltas, per_expert(at[site.name]["weights"], len(experts)), elect_on).sign().sum())
    return Prepared(cuts, _majority(total))


def _majority(total: float) -> float:
    """Return the sign of the sum of all elected signs; minus where it is 0, as the authors' comparison has it."""
    return -1.0 if total <= 0 else 1.0


def _draws(chunks: Chunks) -> Chunks:
    """Yield random numbers in the place of deltas: the largest k of them are k places drawn without replacement."""
    for site, base, experts in chunks:
        zero = torch.zeros_like(base)
        yield site, zero, [uniform(site, name, base) for name, _ in zip(site.experts, experts, strict=True)]


@merge_method(
    "ties",
    paper="arXiv:2306.01708",
    kind="stream",
    category="merge",
    version=2,
    kernel=CONSENSUS,
    prepare=prepare_ties,
    workspace=Workspace(fixed=14.5, each=3),
    laws=("identity", "order", "scale_zero"),
    exempt={
        "shift": "deltas are rounded differently when all inputs move, which can change which entries are kept",
        "single": "a single task vector is trimmed too",
    },
    compat={
        "paper": {},
        "official": {"keep": "official", "zero_sign": "majority"},
        "fusion_bench": {"keep": "official", "zero_sign": "majority"},
        "mergekit": {"scope": "tensor", "keep": "at_least_one", "zero_sign": "positive"},
    },
)
def ties(
    base: Tensor, experts: Sequence[Tensor], *, density: PerExpert[Density] = 0.2, weights: PerExpert[float] = 1.0,
    scale: Scale = 1.0, scope: Scope = "model", combine: Disjoint = "mean", elect_on: ElectOn = "weighted",
    trim: Literal["magnitude", "random"] = "magnitude", keep: Keep = "exact", zero_sign: ZeroSign = "zero",
    site: Site | None = None, prepared: Prepared | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + λ·τ, with τ the disjoint merge of the trimmed task vectors (arXiv:2306.01708, Algorithm 1).

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        density: share of each task vector's entries that is kept, in (0, 1]; the paper's k is 0.2.
        weights: one factor an expert on its trimmed task vector.
        scale: λ; 1 with the mean as in the paper, 0.3 with the sum as in the benchmark's tables.
        scope: among which entries the largest are kept: of the whole model (paper), of each tensor (mergekit), or of
            all tensors that some expert changed (the Flan-T5 tables with LoRA experts).
        combine: what is done with the entries that agree: their mean over weights (paper), sum, or largest.
        elect_on: whether signs are elected by weighted or by unweighted task vectors.
        trim: keep the largest magnitudes, or as many places at random (without rescaling).
        keep: exactly ⌊density·size⌋ entries, ties by name and index; `official` keeps one more and its ties;
            `at_least_one` never empties a tensor.
        zero_sign: what an exact tie elects: nothing, the sign that most entries elect, minus where as many elect each
            (official), or plus (mergekit).
        site: which tensor and chunk this is; given by the engine.
        prepared: the cuts of the whole model; without them the tensor at hand is trimmed by itself.

    Others: fusion_bench and the authors' code keep one entry more than ⌊density·size⌋; mergekit and peft trim each
    tensor by itself; peft votes on unweighted task vectors.
    """
    deltas = _trimmed(base, experts, density, trim, keep, site, prepared)
    factors = per_expert(weights, len(experts))
    elected = elect(deltas, factors, elect_on)
    if zero_sign == "majority":
        majority = prepared.majority if prepared is not None else _majority(float(elected.sign().sum()))
        elected = torch.where(elected == 0, majority, elected)
    elif zero_sign == "positive":
        elected = torch.where(elected == 0, 1.0, elected)
    return base + merge_agreeing(deltas, factors, elected.sign(), combine, elect_on) * scale


def _trimmed(
    base: Tensor, experts: Sequence[Tensor], density: Any, trim: str, keep: Keep, site: Site | None,
    prepared: Prepared | None,
) -> list[Tensor]:  # fmt: skip
    """Return the deltas, all but the kept entries zero."""
    deltas = [expert - base for expert in experts]
    names = site.experts if site is not None else tuple(map(str, range(len(experts))))
    place = site or Site("", tuple(base.shape), 0, "other", True, "", None, 1, names, 0)
    ranked = deltas if trim == "magnitude" else [uniform(place, name, base) for name in names]
    if prepared is None:
        shares = per_expert(density, len(experts))
        masks = [_largest(r, kept(share, r.numel(), keep), keep) for r, share in zip(ranked, shares, strict=True)]
    elif prepared.thresholds is None:
        return deltas
    else:
        bits, quota = prepared.thresholds.at((place.name, place.start))
        masks = [_above(r, int(b), int(q)) for r, b, q in zip(ranked, bits, quota, strict=True)]
    return [delta * mask for delta, mask in zip(deltas, masks, strict=True)]


def _largest(values: Tensor, count: int, keep: Keep) -> Tensor:
    """Return a mask of the `count` largest magnitudes, ties by index; `official` also all ties of the last one."""
    magnitudes = values.abs().flatten()
    mask = torch.zeros_like(magnitudes, dtype=torch.bool)
    if count:
        order = torch.argsort(magnitudes, descending=True, stable=True)
        mask[order[:count]] = True
        if keep == "official":
            mask |= magnitudes == magnitudes[order[count - 1]]
    return mask.view(values.shape)


def _above(values: Tensor, cut: int, quota: int) -> Tensor:
    """Return a mask of the magnitudes whose bit patterns lie above `cut`, and of the first `quota` that equal it."""
    patterns = values.float().abs().contiguous().view(torch.int32).flatten()
    tied = patterns == cut
    return ((patterns > cut) | (tied & (tied.cumsum(0) <= quota))).view(values.shape)
