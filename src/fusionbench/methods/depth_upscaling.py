"""Depth up-scaling: a deeper model of layers of one model, some of them more than once."""

from collections.abc import Sequence

from torch import Tensor

from fusionbench.kernels.combine import COPIED, check_single
from fusionbench.methods._method import merge_method


@merge_method(
    "depth_upscaling",
    paper="arXiv:2312.15166",
    kind="stream",
    category="mix",
    version=1,
    base="unused",
    needs=("training_after",),
    kernel=COPIED,
    stacks=True,
    laws=("identity", "shift", "single"),
    exempt={
        "order": "it takes exactly one expert",
        "scale_zero": "there is no scale: tensors are copied",
    },
)
def depth_upscaling(
    experts: Sequence[Tensor],
    *,
    layers: Sequence[int | str] | None = None,
    expert: str | None = None,
) -> Tensor:
    """Return layers i₁ … i_s of a model, one after the other, each a copy; all else as it is (arXiv:2312.15166, §2).

    A tensor is copied as it is; which layers there are is the plan's business (`weights.stacking`), so that no torch is
    needed. SOLAR's rule for n layers and m removed of each of two copies is [0 … n−m−1] + [m … n−1].

    Args:
        experts: one tensor.
        layers: numbers and ranges such as "range(0,24)", in order; by default SOLAR's rule with m = n/4, as the paper's
            m = 8 of n = 32.
        expert: the model, by name, or "base"; the only one need not be named.

    Raises:
        ConfigError: where a layer is not there, or several experts and none is named.

    Others: fusion_bench evaluates ranges as code, and leaves the copies' old numbers in the modules, so that layers
    share their places in the cache of keys and values and generation is wrong.
    """
    check_single(len(experts))
    return experts[0]
