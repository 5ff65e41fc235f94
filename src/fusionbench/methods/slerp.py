"""Averages on the sphere: SLERP of two models, and its generalisations to weights, task vectors and many models."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.kernels.angles import ARC, check_ends
from fusionbench.kernels.arc_between import ARC_BETWEEN, share_between
from fusionbench.methods._method import merge_method
from fusionbench.methods._rows import along, back_along, input_axis, whole
from fusionbench.methods._sphere import STRAIGHT, ZeroNorm, arc, frechet_mean, mean_direction
from fusionbench.methods._sums import gram, weighted_rows
from fusionbench.parameters import Count, PerExpert, Positive, Range, Share, per_expert
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

NonNegative = Annotated[float, Range(0)]
OF_WEIGHTS = {
    "scale_zero": "there is no scale",
    "shift": "angles are those between the weights, not between task vectors",
}
OF_DELTAS = {
    "scale_zero": "there is no scale",
    "shift": "only where there is a base, and rounded deltas can turn small task vectors",
}
"""Why laws do not hold: where angles are between the models, and where they may be between task vectors."""


@merge_method(
    "slerp",
    paper="doi:10.1145/325334.325242",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    base="optional",
    kernel=ARC,
    workspace=Workspace(blocks=2.1),
    laws=("identity",),
    exempt={
        "order": "t counts from the first model to the second",
        **OF_WEIGHTS,
        "single": "a single expert is reached from the base",
    },
    compat={"paper": {}, "fusion_bench": {"zero_norm": "arc"}, "mergekit": {"zero_norm": "arc"}},
)
def slerp(base: Tensor | None, experts: Sequence[Tensor], *, t: Share = 0.5, zero_norm: ZeroNorm = "line") -> Tensor:
    """Return [sin((1−t)·θ)·v₀ + sin(t·θ)·v₁] / sin θ, θ the angle between two models' tensors (Shoemake 1985).

    Two experts: from the first to the second, whether or not there is a base. One expert and a base: from the base to
    the expert. Where |cos θ| > 0.9995 the straight line (1−t)·v₀ + t·v₁ is taken.

    Args:
        base: the pretrained tensor, of any shape; the first end where there is one expert.
        experts: one or two fine-tuned tensors of that shape.
        t: share of the way, in [0, 1]; 0 is the first end.
        zero_norm: how a tensor of zeros is left: along the line, or as if at a right angle to the other (both peers).

    Raises:
        ConfigError: where there are not exactly two ends.
    """
    ends = _two_ends(base, experts)
    rows = [whole(end) for end in ends]
    return weighted_rows(rows, arc(gram(rows), t, zero_norm=zero_norm)).reshape(experts[0].shape)


def _two_ends(base: Tensor | None, experts: Sequence[Tensor]) -> Sequence[Tensor]:
    check_ends(len(experts), base=base is not None)
    return experts if len(experts) == 2 or base is None else (base, experts[0])


@merge_method(
    "nuslerp",
    paper="mergekit 0.1.5",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    base="optional",
    kernel=ARC_BETWEEN,
    workspace=Workspace(each=1, blocks=12),
    laws=("identity",),
    exempt={
        "order": "each weight belongs to one expert, and it takes exactly two",
        **OF_DELTAS,
        "single": "it takes exactly two experts",
    },
    compat={"paper": {}, "mergekit": {"straight": 1.0, "zero_norm": "arc"}},
)
def nuslerp(
    base: Tensor | None, experts: Sequence[Tensor], *, weights: PerExpert[float] = 1.0,
    mode: Literal["flat", "row", "column"] = "flat", straight: Share = STRAIGHT, zero_norm: ZeroNorm = "line",
    site: Site | None = None,
) -> Tensor:  # fmt: skip
    """Return the point at t = w₂/(w₁+w₂) of the arc between two experts, or θ₀ + that of their task vectors.

    Args:
        base: the pretrained tensor; where there is one, the arc is between the task vectors.
        experts: two fine-tuned tensors of one shape.
        weights: one factor an expert, not summing to zero; only their ratio counts.
        mode: what turns by one angle: the whole tensor, each line along the inputs (a matrix's row), or each line along
            the outputs (its column). Tensors of fewer than two dimensions are always whole.
        straight: |cos θ| above which the straight line is taken; 1 (mergekit) leaves it to exactly parallel vectors.
        zero_norm: how a tensor of zeros is left: along the line, or as if at a right angle to the other (mergekit).
        site: which tensor this is; tells the rows of GPT-2's Conv1D, whose inputs come first.

    Raises:
        ConfigError: where there are not two experts, or their weights sum to zero.

    Others: mergekit calls `mode=row` nuslerp_row_wise=false, and `column` nuslerp_row_wise=true.
    """
    t = share_between(per_expert(weights, len(experts)))
    vectors, shape, axis = _seen_from(base, experts), experts[0].shape, None
    if mode != "flat" and len(shape) >= 2:
        inputs = input_axis(vectors[0], site)
        axis = inputs if mode == "row" else (0 if inputs else len(shape) - 1)
    rows = [whole(vector) if axis is None else along(vector, axis) for vector in vectors]
    merged = weighted_rows(rows, arc(gram(rows), t, straight=straight, zero_norm=zero_norm))
    return _put_back(base, merged.reshape(shape) if axis is None else back_along(merged, shape, axis))


@merge_method(
    "multislerp",
    paper="mergekit 0.1.5",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    base="optional",
    workspace=Workspace(each=1, blocks=2.1),
    laws=("identity", "order", "single"),
    exempt=OF_DELTAS,
)
def multislerp(
    base: Tensor | None, experts: Sequence[Tensor], *, weights: PerExpert[float] = 1.0, normalize: bool = True
) -> Tensor:
    """Return (Σ wᵢ·‖vᵢ‖)·m, m the unit vector along Σ wᵢ·vᵢ/‖vᵢ‖, of the experts or (plus θ₀) of their task vectors.

    This is mergekit's step over the tangent space at m in closed form: the tangents sum to zero there. Where the
    directions cancel (‖Σ wᵢ·ûᵢ‖ < 10⁻⁶·Σ|wᵢ|) the weighted sum of the vectors is taken.

    Args:
        base: the pretrained tensor; where there is one, the mean is of task vectors.
        experts: fine-tuned tensors of one shape.
        weights: one factor an expert; not summing to zero where they are normalised.
        normalize: divide the weights by their sum.

    Raises:
        ConfigError: where weights that are to be normalised sum to zero.

    Others: mergekit raises an error where more than two directions cancel, and leaves a single expert's weight out.
    """
    vectors = [whole(vector) for vector in _seen_from(base, experts)]
    shares = _shares(weights, vectors, normalize=normalize)
    merged = weighted_rows(vectors, mean_direction(gram(vectors), shares))
    return _put_back(base, merged.reshape(experts[0].shape))


@merge_method(
    "karcher",
    paper="arXiv:2603.04972",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    base="unused",
    workspace=Workspace(blocks=2.1),
    laws=("identity", "order", "single"),
    exempt=OF_WEIGHTS,
)
def karcher(
    experts: Sequence[Tensor], *, weights: PerExpert[NonNegative] = 1.0, max_iterations: Count = 10,
    tolerance: Positive = 1e-5,
) -> Tensor:  # fmt: skip
    """Return (Σ αᵢ·‖θᵢ‖)·u, u the Fréchet mean of the experts' directions, α = w/Σw (arXiv:2603.04972).

    From the normalised mean of the directions, u ← cos‖T‖·u + sin‖T‖·T/‖T‖ with T = Σ αᵢ·(φᵢ/sin φᵢ)·(ûᵢ − cos φᵢ·u)
    and φᵢ the angle of ûᵢ and u, until ‖T‖ < tolerance. All of it is done on the N×N inner products, so a large tensor
    is read twice whatever the iterations. Where the directions cancel the weighted mean of the experts is taken.

    Args:
        experts: fine-tuned tensors of one shape; those of norm zero have no direction but count in the mean norm.
        weights: one factor an expert, none negative, not all zero; only their ratios count.
        max_iterations: steps at most.
        tolerance: length of a step, in radians, below which no more are taken.

    Raises:
        ConfigError: where all weights are zero.

    Others: mergekit has no weights, and leaves out experts whose norm is below the tolerance.
    """
    vectors = [whole(expert) for expert in experts]
    shares = _shares(weights, vectors, normalize=True)
    coefficients = frechet_mean(gram(vectors), shares, max_iterations=max_iterations, tolerance=tolerance)
    return weighted_rows(vectors, coefficients).reshape(experts[0].shape)


def _seen_from(base: Tensor | None, experts: Sequence[Tensor]) -> list[Tensor]:
    """Return the experts' task vectors where there is a base, else the experts."""
    return [expert if base is None else expert - base for expert in experts]


def _put_back(base: Tensor | None, merged: Tensor) -> Tensor:
    return merged if base is None else base + merged


def _shares(weights: float | Sequence[float], vectors: Sequence[Tensor], *, normalize: bool) -> Tensor:
    """Return one factor an expert, summing to 1 where `normalize`."""
    factors = per_expert(weights, len(vectors))
    total = sum(factors)
    if normalize and abs(total) < 1e-12:
        raise ConfigError(f"method.weights sum to {total}: they cannot be normalised. Let them sum to something else.")
    shares = torch.tensor(factors, dtype=torch.float64, device=vectors[0].device)
    return shares / total if normalize else shares
