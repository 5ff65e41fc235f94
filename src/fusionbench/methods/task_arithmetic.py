"""Task arithmetic: the sum of task vectors, scaled, added to the base."""

from collections.abc import Sequence

from torch import Tensor

from fusionbench.kernels.combine import ADD_DELTAS
from fusionbench.methods._method import merge_method
from fusionbench.parameters import PerExpert, Scale, per_expert


@merge_method(
    "task_arithmetic",
    paper="arXiv:2212.04089",
    kind="stream",
    category="merge",
    version=1,
    kernel=ADD_DELTAS,
    laws=("identity", "order", "scale_zero", "shift"),
    exempt={"single": "a single task vector is scaled too"},
)
def task_arithmetic(
    base: Tensor, experts: Sequence[Tensor], *, weights: PerExpert[float] = 1.0, scale: Scale = 0.3
) -> Tensor:
    """Return θ₀ + λ·Σ wᵢ·(θᵢ − θ₀) (arXiv:2212.04089, §2).

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        weights: one factor an expert; -1 negates a task, and (1, 1, -1) makes an analogy.
        scale: λ; the paper sweeps 0 to 1 on validation data, 0.3 is what the benchmark's tables use for eight tasks.

    Others: mergekit's default is λ = 1 with a weight for each model.
    """
    factors = per_expert(weights, len(experts))
    total = (experts[0] - base) * factors[0]
    for expert, factor in zip(experts[1:], factors[1:], strict=True):
        total = total + (expert - base) * factor
    return base + total * scale
