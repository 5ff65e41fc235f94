"""PCB: parameters compete, within their task by size and between tasks by agreement, and the losers are dropped."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from fusionbench.methods._method import merge_method
from fusionbench.methods._quantiles import Floats, one_for_all, order_statistics, rank_above, rank_below
from fusionbench.parameters import Density, PerExpert, Range, Scale, per_expert
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

Agreement = Literal["deltas", "normalized", "pairwise"]
Chunks = Iterator[tuple[Site, Tensor, Sequence[Tensor]]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Order statistics of the whole model, `(experts, 1)` each.

    Attributes:
        low: magnitude below which one is raised to it.
        high: magnitude above which one is lowered to it.
        floor: balance of the last entry that is kept.
        top: the largest balance.
    """

    low: Tensor
    high: Tensor
    floor: Tensor
    top: Tensor


def prepare_pcb(read: Callable[[], Chunks], at: Mapping[str, Mapping[str, Any]], *, agreement: Agreement) -> Bounds:
    """Find the bounds of each expert over the whole model: two passes for the magnitudes, two for the balances.

    Raises:
        ConfigError: where the density or the clip differs from tensor to tensor.
    """
    density, clip = one_for_all(at, "density"), one_for_all(at, "clip")

    def magnitudes() -> Iterator[Floats]:
        return (_rows(base, experts).abs().cpu().numpy() for _, base, experts in read())

    low, high = _columns(order_statistics(magnitudes, lambda size: _clipped(clip, size)))

    def balances() -> Iterator[Floats]:
        for _, base, experts in read():
            rows = _rows(base, experts)
            yield _balance(rows, low.to(rows), high.to(rows), agreement)[1].cpu().numpy()

    floor, top = _columns(order_statistics(balances, lambda size: _kept(density, size)))
    return Bounds(low, high, floor, top)


@merge_method(
    "pcb",
    paper="arXiv:2410.02396",
    kind="stream",
    category="merge",
    version=1,
    prepare=prepare_pcb,
    workspace=Workspace(fixed=0, each=8.5),
    laws=("identity", "order", "scale_zero"),
    exempt={
        "shift": "deltas are rounded differently when all inputs move, which can change which entries are kept",
        "single": "a single task vector is clipped and trimmed too",
    },
    compat={"paper": {}, "official": {}},
)
def pcb(
    base: Tensor, experts: Sequence[Tensor], *, density: Density = 0.1, scale: Scale = 1.2,
    weights: PerExpert[float] = 1.0, clip: Annotated[float, Range(0, 0.5, open="right")] = 1e-4,
    agreement: Agreement = "deltas", prepared: Bounds | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + λ·Σ wᵢ·sᵢ⊙cᵢ / Σ sᵢ with sᵢ the scores of competition balancing (arXiv:2410.02396, authors' code).

    cᵢ is the task vector with its magnitudes clipped, nᵢ these magnitudes mapped to [0, 1], the balance
    βᵢ = exp(N·nᵢ²)·tanh(τᵢ⊙Σⱼ τⱼ), and sᵢ the balances from their (1 − density)-quantile up, mapped to [0, 1].
    Quantiles and extremes are those of the whole model. An expert whose balances are all equal scores 0.

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        density: share of the entries of each expert that score, in (0, 1]; 0.05 for vision, 0.05 to 0.2 for language.
        scale: λ; 1.2, or searched in 0.8 to 1.3 (vision) and 0.8 to 2.2 (T5).
        weights: one factor an expert; the authors search λ for each.
        clip: share of the magnitudes that is clipped at either end, in [0, 0.5).
        agreement: what the other tasks are compared by: `deltas` their task vectors, `normalized` their signed
            magnitudes in [0, 1], both within tanh(τᵢ⊙Σⱼ …); `pairwise` signed magnitudes two by two, Σⱼ tanh(nᵢ⊙nⱼ).
            The authors' vision scripts have the last two, without and with their search of λ, and clip 0.01.
        prepared: bounds of the whole model; of this tensor alone where they are missing.

    Others: the paper prints a softmax for both factors; none of the authors' programs has it.
    """
    rows = _rows(base, experts)
    bounds = prepared or _bounds(rows, density, clip, agreement)
    clipped, balance = _balance(rows, bounds.low.to(rows), bounds.high.to(rows), agreement)
    score = _unit(balance, bounds.floor.to(rows), bounds.top.to(rows))
    factors = torch.tensor(per_expert(weights, len(experts)), dtype=rows.dtype, device=rows.device)
    merged = clipped.mul_(score).mul_(factors[:, None]).sum(0) / score.sum(0).clamp(min=1e-12)
    return base + (merged.view(base.shape) * scale).to(base.dtype)


def _rows(base: Tensor, experts: Sequence[Tensor]) -> Tensor:
    """Return the task vectors as `(experts, entries)` in float32, in which they are ranked."""
    return torch.stack([(expert - base).reshape(-1) for expert in experts]).float()


def _balance(rows: Tensor, low: Tensor, high: Tensor, agreement: Agreement) -> tuple[Tensor, Tensor]:
    """Return the clipped task vectors and their balances, up to one factor for all, which the scores do not see."""
    sizes = rows.abs().clamp_(low, high)
    unit = _unit(sizes, low, high)
    compared = rows if agreement == "deltas" else rows.sign().mul_(unit)
    if agreement == "pairwise":
        agreed = torch.stack([torch.tanh(own * compared).sum(0) for own in compared])
    else:
        agreed = (rows * compared.sum(0)).tanh_()
    return sizes.mul_(rows.sign()), unit.square_().sub_(1).mul_(len(rows)).exp_().mul_(agreed)


def _unit(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return where values lie between two bounds, in [0, 1]; 0 where the bounds are one."""
    spread = high - low
    lifted = values.maximum(low).sub_(low)
    return lifted.div_(torch.where(spread > 0, spread, 1.0)).masked_fill_(spread <= 0, 0.0)


def _bounds(rows: Tensor, density: float, clip: float, agreement: Agreement) -> Bounds:
    """Return the bounds of a tensor that is at hand as a whole."""
    low, high = _at(rows.abs(), _clipped(clip, rows.shape[1]))
    floor, top = _at(_balance(rows, low, high, agreement)[1], _kept(density, rows.shape[1]))
    return Bounds(low, high, floor, top)


def _at(rows: Tensor, ranks: tuple[int, int]) -> tuple[Tensor, Tensor]:
    if rows.shape[1] == 0:
        return rows.sum(1, keepdim=True), rows.sum(1, keepdim=True)
    ordered = rows.sort(1).values
    return ordered[:, ranks[0], None], ordered[:, ranks[1], None]


def _columns(found: Floats) -> tuple[Tensor, Tensor]:
    columns = torch.from_numpy(found)
    return columns[:, :1], columns[:, 1:]


def _clipped(clip: float, size: int) -> tuple[int, int]:
    """Return the ranks of the magnitudes at which a vector is clipped."""
    low = rank_below(clip, size)
    return low, max(rank_above(clip, size) - 1, low)


def _kept(density: float, size: int) -> tuple[int, int]:
    """Return the ranks of the smallest and the largest balance that score."""
    return rank_above(density, size), size - 1
