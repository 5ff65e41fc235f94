"""ExPO: go on in the direction in which alignment moved a model."""

from collections.abc import Sequence

from torch import Tensor

from fusionbench.methods._method import merge_method
from fusionbench.parameters import Scale


@merge_method(
    "expo",
    paper="arXiv:2404.16792",
    kind="stream",
    category="merge",
    version=1,
    laws=("identity", "order", "shift"),
    exempt={
        "scale_zero": "scale 0 gives the experts' mean: it counts from there, not from the base",
        "single": "a single expert is extrapolated too",
    },
)
def expo(base: Tensor, experts: Sequence[Tensor], *, scale: Scale = 0.3) -> Tensor:
    """Return θ₁ + α·(θ₁ − θ₀) with θ₁ the mean of the experts (arXiv:2404.16792, Eq. 1).

    Args:
        base: the tensor before alignment (the paper's SFT model), of any shape.
        experts: the same tensor from each aligned model; the paper has one.
        scale: α, how much farther than the experts; the authors' values are 0.3 to 0.5, negative values go back.

    Others: fusion_bench's default is 0.1; its Llama variant takes a factor for attention and leaves layers out, which
    here is a schedule: `scale=[{filter: self_attn, value: 0.1}, {value: 0.3}]`.
    """
    mean = experts[0]
    for expert in experts[1:]:
        mean = mean + expert
    mean = mean / len(experts)
    return mean + (mean - base) * scale
