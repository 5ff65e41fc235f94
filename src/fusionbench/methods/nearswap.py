"""NearSwap: take over what is near, and move the rest by no more than a threshold."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.methods._method import merge_method
from fusionbench.parameters import Range
from fusionbench.registry import Workspace

Distance = Annotated[float, Range(0)]


@merge_method(
    "nearswap",
    paper="huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    kind="stream",
    category="merge",
    version=1,
    workspace=Workspace(fixed=3.5),
    laws=("identity", "shift"),
    exempt={
        "order": "it takes exactly one expert",
        "scale_zero": "there is no scale; t 0 gives the base",
        "single": "a single expert is taken over only where it is near",
    },
)
def nearswap(base: Tensor, experts: Sequence[Tensor], *, t: Distance = 0.0001) -> Tensor:
    """Return θ₀ + g·(θ₁ − θ₀), g = min(1, t/|θ₁ − θ₀|) entry by entry: the expert, at most t away from the base.

    Args:
        base: the tensor that is kept where the two differ, of any shape.
        experts: one tensor of that shape.
        t: the farthest that an entry may move, in the weights' own unit; the author's model uses 0.0001, and reports
            that quality falls above 0.0025.

    Raises:
        ConfigError: where there is not exactly one expert.
    """
    if len(experts) != 1:
        raise ConfigError(f"nearswap takes a base and exactly one expert, got {len(experts)}. Merge them one by one.")
    (expert,) = experts
    delta = expert - base
    return torch.where(delta.abs() <= t, expert, base + delta.clamp(-t, t))
