"""MagMax: of every entry, keep the task vector that moved it most."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fusionbench.methods._method import merge_method
from fusionbench.parameters import Scale
from fusionbench.registry import Workspace


@merge_method(
    "magmax",
    paper="arXiv:2407.06322",
    kind="stream",
    category="merge",
    version=1,
    workspace=Workspace(fixed=4.5),
    laws=("identity", "scale_zero"),
    exempt={
        "order": "of entries that moved equally far in opposite directions the later expert's is taken",
        "shift": "deltas are rounded differently when all inputs move, which can change which is largest",
        "single": "a single task vector is scaled too",
    },
)
def magmax(base: Tensor, experts: Sequence[Tensor], *, scale: Scale = 0.5) -> Tensor:
    """Return θ₀ + λ·τ with τⱼ the task vectors' entry of largest magnitude (arXiv:2407.06322, §4).

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model; of equal magnitudes the last is taken, as the authors do.
        scale: λ; the authors use 0.5 for eight data sets.
    """
    merged = experts[0] - base
    for expert in experts[1:]:
        delta = expert - base
        merged = torch.where(delta.abs() >= merged.abs(), delta, merged)
    return base + merged * scale
