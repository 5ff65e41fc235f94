"""Averages of the experts' weights."""

from collections.abc import Sequence

from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.kernels.combine import AVERAGE, WEIGHTED_AVERAGE, divisor
from fusionbench.methods._method import merge_method
from fusionbench.parameters import PerExpert, per_expert
from fusionbench.registry import Workspace


@merge_method(
    "simple_average",
    paper="arXiv:2203.05482",
    kind="stream",
    category="merge",
    version=1,
    base="unused",
    kernel=AVERAGE,
    laws=("identity", "order", "shift", "single"),
    exempt={"scale_zero": "there is no scale"},
)
def simple_average(experts: Sequence[Tensor]) -> Tensor:
    """Return the mean of the experts, Σ θᵢ / N (uniform soup, arXiv:2203.05482, §2).

    Args:
        experts: the same tensor from each fine-tuned model, all of one shape.

    Others: fusion_bench sums in the files' own precision and writes into the first model; here sums are in float32 and
    nothing is changed.
    """
    total = experts[0].clone()
    for expert in experts[1:]:
        total = total + expert
    return total / len(experts)


@merge_method(
    "weighted_average",
    paper="arXiv:2111.09832",
    kind="stream",
    category="merge",
    version=1,
    base="optional",
    kernel=WEIGHTED_AVERAGE,
    workspace=Workspace(fixed=3.5, each=1),
    laws=("identity", "single"),
    exempt={
        "order": "each weight belongs to one expert",
        "scale_zero": "there is no scale",
        "shift": "only where the weights are normalised",
    },
)
def weighted_average(
    base: Tensor | None,
    experts: Sequence[Tensor],
    *,
    weights: PerExpert[float] = 1.0,
    normalize: bool = True,
    relative_to_base: bool = False,
) -> Tensor:
    """Return Σ wᵢ·θᵢ / Σ wᵢ, or θ₀ + Σ wᵢ·(θᵢ − θ₀) where it is taken relative to the base.

    Args:
        base: the pretrained tensor; needed only for `relative_to_base`.
        experts: the same tensor from each fine-tuned model, all of one shape.
        weights: one factor an expert; not all zero where they are normalised.
        normalize: divide by the sum of the weights.
        relative_to_base: weigh the deltas instead of the weights, so that weights that do not sum to 1 keep the base.

    Raises:
        ConfigError: where normalised weights sum to zero, or the base is missing.
    """
    factors = per_expert(weights, len(experts))
    total_weight = divisor(factors) if normalize else 1.0
    inputs = list(experts)
    if relative_to_base:
        if base is None:
            raise ConfigError("method.relative_to_base needs a base model; name one with base=.")
        inputs = [expert - base for expert in experts]
    total = inputs[0] * factors[0]
    for tensor, factor in zip(inputs[1:], factors[1:], strict=True):
        total = total + tensor * factor
    if normalize:
        total = total / total_weight
    return base + total if relative_to_base and base is not None else total
