"""WUDI: the merged task matrix that interferes least with the inputs each task's own matrix reveals."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusionbench.methods._method import merge_method
from fusionbench.methods._spectral import Others, adam, is_matrix, mean_of, oriented, rounding
from fusionbench.parameters import Count, Positive
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

_UNSAFE = 1e-10
"""Share of the largest eigenvalue below which one of a float64 Gram matrix is rounding, whatever the matrix's size."""


@merge_method(
    "wudi",
    paper="arXiv:2503.08099",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    workspace=Workspace(fixed=11.5, each=1, squares=6.5, side="inputs"),
    laws=("identity", "order"),
    exempt={
        "scale_zero": "there is no scale",
        "shift": "Adam walks at full pace along a gradient that is only rounding",
        "single": "only matrices take part; other tensors keep the base",
    },
    compat={"paper": {}, "official": {}, "fusion_bench": {"embeddings": True, "others": "mean"}},
)
def wudi(
    base: Tensor, experts: Sequence[Tensor], *, steps: Count = 300, learning_rate: Positive = 1e-5,
    solver: Literal["adam", "closed_form"] = "adam", embeddings: bool = False, others: Others = "keep",
    site: Site | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + X with X a minimum of Σᵢ ‖(X − τᵢ)·τᵢᵀ‖² / ‖τᵢ‖² (arXiv:2503.08099).

    With Adam X starts at Σ τᵢ and moves at most η a step, so the result lies between the sum and the minimum. Only
    Aᵢ = τᵢᵀτᵢ/‖τᵢ‖² of a task enters the loss; experts that did not move a matrix have no term.

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        steps: of Adam; the authors take 300. The closed form has none.
        learning_rate: η, absolute: a model with smaller task vectors is moved farther. The closed form has none.
        solver: `adam`, stopped early, is the paper's; `closed_form` is the minimum itself, (Σ τᵢAᵢ)·(Σ Aᵢ)⁺.
        embeddings: treat embedding tables and output heads as matrices too, not only linear layers.
        others: what tensors that are no matrices get: the base, or the mean of the task vectors (fusion_bench).
        site: where the tensor stands, and which axis holds the outputs; without it every two-dimensional tensor is a
            matrix, `(outputs, inputs)`.

    Others: fusion_bench optimises every two-dimensional tensor and divides 0 by 0 where an expert has no delta.
    """
    deltas = [expert - base for expert in experts]
    if not is_matrix(base, site, embeddings=embeddings):
        return base + mean_of(deltas) if others == "mean" else base.clone()
    matrices = [oriented(delta, site) for delta in deltas]
    total, grams, targets = _sums(matrices)
    if solver == "closed_form":
        merged = targets @ _inverse(grams, rounding(base) ** 2)
    else:
        # The gradient at Σ τᵢ is a difference of large numbers, so it is taken in float64. Beside it what Adam adds is
        # small, so that the steps themselves need no more than float32.
        start, slope = (total @ grams - targets).float(), grams.float()
        moved = adam(lambda point: (point @ slope).add_(start).mul_(2), start, steps, learning_rate)
        merged = total + moved.double()
    return base + oriented(merged, site).to(base.dtype)


def _sums(deltas: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return Σ τᵢ, Σ Aᵢ and Σ τᵢAᵢ in float64, with one expert at a time in it."""
    total = torch.zeros_like(deltas[0], dtype=torch.float64)
    grams = total.new_zeros(total.shape[1], total.shape[1])
    targets = torch.zeros_like(total)
    for delta in map(Tensor.double, deltas):
        squares = delta.square().sum()
        scaled = delta * torch.where(squares > 0, 1 / squares, 0.0)
        total += delta
        grams += delta.T @ scaled
        # The order of the products is that of the smaller result.
        outputs_first = delta.shape[0] < delta.shape[1]
        targets += (delta @ delta.T) @ scaled if outputs_first else delta @ (delta.T @ scaled)
    return total, grams, targets


def _inverse(grams: Tensor, limit: float) -> Tensor:
    """Return the pseudo-inverse of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(grams)
    live = values > max(limit, _UNSAFE) * values[-1]
    inverse: Tensor = (vectors * torch.where(live, 1 / torch.where(live, values, 1.0), 0.0)) @ vectors.T
    return inverse
