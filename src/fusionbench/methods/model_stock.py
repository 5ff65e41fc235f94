"""Model Stock: how far from the base to the experts' mean, told from the angles between the task vectors."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusionbench.kernels.angles import STOCK, check_several
from fusionbench.methods._method import merge_method
from fusionbench.methods._rows import back_per_output, per_output, whole
from fusionbench.methods._sums import gram, weighted_rows
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

Average = Literal["cosine", "angle"]
SmallNorms = Literal["exact", "floor", "offset"]


@merge_method(
    "model_stock",
    paper="arXiv:2403.19522",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    kernel=STOCK,
    workspace=Workspace(each=1, blocks=12),
    laws=("identity", "order"),
    exempt={
        "scale_zero": "there is no scale: t follows from the angles",
        "shift": "deltas are rounded differently when all inputs move, which can turn those of a few tiny entries",
        "single": "it takes two experts or more",
    },
    compat={
        "paper": {},
        "fusion_bench": {"average": "angle", "clamp": False, "small_norms": "offset"},
        "mergekit": {"clamp": False, "small_norms": "floor"},
    },
)
def model_stock(
    base: Tensor, experts: Sequence[Tensor], *, average: Average = "cosine",
    granularity: Literal["tensor", "row"] = "tensor", clamp: bool = True, small_norms: SmallNorms = "exact",
    site: Site | None = None,
) -> Tensor:  # fmt: skip
    """Return t·θ̄ + (1−t)·θ₀, t = N·cos φ / (1 + (N−1)·cos φ), φ the task vectors' angle (arXiv:2403.19522, Eq. 4).

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from two or more fine-tuned models.
        average: what stands for cos φ where there are more than two experts: the mean of the pairs' cosines, or the
            cosine of their mean angle (fusion_bench); the paper gives no formula.
        granularity: one t a tensor, or one an output's row; tensors of fewer than two dimensions have one.
        clamp: hold t in [0, 1]; without it obtuse task vectors lead away from the experts, as both peers have it.
        small_norms: what a cosine is divided by: ‖τᵢ‖·‖τⱼ‖, that but at least 1e-6 (mergekit), or 1e-8 more than that
            (fusion_bench); the last two draw small task vectors to the base.
        site: which tensor this is; tells the rows of GPT-2's Conv1D, whose inputs come first.

    Raises:
        ConfigError: where there are fewer than two experts.

    Others: mergekit's filter_wise takes each line of the last axis for a row, of a convolution too; fusion_bench
    averages the tensors of its ignore_keys instead of leaving the base.
    """
    check_several(len(experts))
    by_row = granularity == "row" and base.dim() > 1
    deltas = [per_output(expert - base, site) if by_row else whole(expert - base) for expert in experts]
    ratio = _ratio(gram(deltas), average, small_norms, clamp=clamp)
    merged = weighted_rows(deltas, (ratio / len(experts)).unsqueeze(1).expand(-1, len(experts)))
    return base + (back_per_output(merged, base.shape, site) if by_row else merged.reshape(base.shape))


def _ratio(products: Tensor, average: Average, small_norms: SmallNorms, *, clamp: bool) -> Tensor:
    """Return t of each row, `(rows,)`, from the task vectors' inner products `(rows, N, N)`."""
    count = products.shape[1]
    pairs = list(itertools.combinations(range(count), 2))
    norms = products.diagonal(dim1=1, dim2=2).sqrt().unbind(1)
    size = torch.stack([norms[i] * norms[j] for i, j in pairs], dim=1)
    inner = torch.stack([products.select(1, i).select(1, j) for i, j in pairs], dim=1)
    divisor = {"exact": torch.where(size > 0, size, 1.0), "floor": size.clamp(min=1e-6), "offset": size + 1e-8}
    cosines = (inner / divisor[small_norms]).clamp(-1.0, 1.0)
    cosine = _mean(cosines) if average == "cosine" else _mean(cosines.arccos()).cos()
    divided = 1 + (count - 1) * cosine
    safe = divided.abs() > 1e-6
    ratio = torch.where(safe, count * cosine / torch.where(safe, divided, 1.0), 0.0)
    # Beyond the pole t is positive again although the task vectors point apart.
    return torch.where(divided > 0, ratio, 0.0).clamp(0.0, 1.0) if clamp else ratio


def _mean(pairs: Tensor) -> Tensor:
    """Return the mean of each row, its entries added one after the other."""
    first, *others = pairs.unbind(1)
    return sum(others, first) / pairs.shape[1]
