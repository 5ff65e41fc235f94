"""DELLA: drop small entries of the task vectors more often than large ones, then merge by sign or by a sum."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusionbench.kernels.ranked import RANKED, check_probabilities
from fusionbench.methods._combine import Combine, combine_deltas
from fusionbench.methods._method import merge_method
from fusionbench.methods._rows import back_per_output, per_output
from fusionbench.methods._sparsify import Rescale, drawn, place_of, ranks, rescaled
from fusionbench.parameters import Density, PerExpert, Scale, Share, per_expert
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site


@merge_method(
    "della",
    paper="arXiv:2406.11617",
    kind="stream",
    category="merge",
    version=2,
    unit="tensor",
    kernel=RANKED,
    workspace=Workspace(fixed=16.5, each=1),
    laws=("identity", "scale_zero"),
    exempt={
        "order": "masks are drawn by the experts' names: the order is no matter only where the names move along",
        "shift": "deltas are rounded differently when all inputs move, which can change their ranks",
        "single": "a single task vector is thinned too",
    },
    compat={
        "paper": {},
        "official": {"zero_sign": "positive"},
        "mergekit": {"zero_sign": "positive", "rescale": "norm"},
    },
)
def della(
    base: Tensor, experts: Sequence[Tensor], *, density: PerExpert[Density] = 0.7, epsilon: PerExpert[Share] = 0.07,
    weights: PerExpert[float] = 1.0, scale: Scale = 1.1, combine: Combine = "ties", normalize: bool = True,
    rescale: Rescale = "inverse", zero_sign: Literal["zero", "positive"] = "zero", site: Site | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + λ·τ, τ the mean of what agrees of the task vectors Mᵢ∘τᵢ/qᵢ (arXiv:2406.11617, §3).

    An entry whose magnitude has rank r of c in its output's row is kept with probability q = (ρ−ε) + 2·ε·r/(c−1), r = 0
    for the smallest; rows of one entry with ρ.

    Args:
        base: the pretrained tensor; ranks are within a matrix's rows, a convolution's `(out, rest)`, or a whole vector.
        experts: the same tensor from each fine-tuned model.
        density: ρ, the mean probability with which an entry is kept; 1 keeps all, whatever ε. The authors' recipe: 0.7.
        epsilon: ε, half of the width over which the probability goes; the authors' window_size is 2·ε = 0.14.
        weights: one factor an expert on its thinned task vector.
        scale: λ; the authors' recipe has 1.1.
        combine: elect a sign and merge what agrees (the paper), or the weighted sum (mergekit's della_linear).
        normalize: divide by the sum of the weights that entered; false gives sums.
        rescale: `inverse` divides each entry by its own q (paper); `norm` gives each tensor its ‖τ‖₁ back (mergekit);
            `none` leaves the entries.
        zero_sign: what an exact tie elects: nothing, or plus (the authors' code and mergekit).
        site: which tensor this is; masks are functions of it.

    Raises:
        ConfigError: where ρ ± ε leaves (0, 1], or normalised weights sum to zero.

    Others: mergekit's default ε is 0.15; it stops at rows of one entry, and ranks convolutions along their second axis.
    """
    place = place_of(site, base, experts)
    widths = per_expert(epsilon, len(experts))
    deltas = []
    for expert, name, share, width in zip(
        experts, place.experts, per_expert(density, len(experts)), widths, strict=True
    ):
        delta = expert - base
        if share < 1:
            probability = keep_probability(delta, share, width, site)
            kept = torch.where(drawn(place, name, delta) < probability, delta, 0.0)
            delta = rescaled(kept, delta, probability, rescale)
        deltas.append(delta)
    factors = per_expert(weights, len(experts))
    return base + combine_deltas(deltas, factors, combine=combine, normalize=normalize, zero_sign=zero_sign) * scale


def keep_probability(delta: Tensor, density: float, epsilon: float, site: Site | None = None) -> Tensor:
    """Return q = (ρ−ε) + 2·ε·r/(c−1) for each entry of a task vector, of its shape (arXiv:2406.11617, §3.1).

    Args:
        delta: the task vector, of any shape.
        density: ρ in (0, 1).
        epsilon: ε; ρ−ε above 0 and ρ+ε at most 1.
        site: tells the rows of GPT-2's Conv1D, whose inputs come first.

    Raises:
        ConfigError: where a probability would be none.
    """
    check_probabilities(density, epsilon)
    rows = per_output(delta, site)
    width = rows.shape[1]
    if width <= 1:
        return torch.full_like(delta, density)
    probability = (density - epsilon) + ranks(rows) * (2 * epsilon / (width - 1))
    return back_per_output(probability, delta.shape, site)
