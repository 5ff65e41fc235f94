"""Passthrough: take a model's tensors as they are, so that slices can put layers of models one on another."""

from collections.abc import Sequence

from torch import Tensor

from fusionbench.kernels.combine import SCALED, check_single
from fusionbench.methods._method import merge_method
from fusionbench.parameters import PerExpert, Scale, per_expert


@merge_method(
    "passthrough",
    paper="github.com/arcee-ai/mergekit",
    kind="stream",
    category="merge",
    version=1,
    base="unused",
    kernel=SCALED,
    laws=("identity", "single"),
    exempt={
        "order": "it takes exactly one expert",
        "scale_zero": "the scale is on the weights, not on a delta: 0 gives zeros",
        "shift": "only where the scale is 1",
    },
)
def passthrough(experts: Sequence[Tensor], *, scale: PerExpert[Scale] = 1.0) -> Tensor:
    """Return s·θ₁: one expert's tensor as it is, or scaled.

    Args:
        experts: one tensor, of any shape.
        scale: its factor; 0 for the matrices that write into the residual stream makes an added block do nothing.

    Raises:
        ConfigError: where there is not exactly one expert.
    """
    check_single(len(experts))
    (factor,) = per_expert(scale, 1)
    return experts[0] * factor
