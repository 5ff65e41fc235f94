"""What stands outside the sites of a mixture: the base's, or the experts' average."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def base_or_average(base: Tensor, experts: Sequence[Tensor], *, others: Literal["base", "average"] = "base") -> Tensor:
    """Return the base's tensor, or the mean of the experts'.

    Args:
        base: a tensor of the pretrained model.
        experts: the same tensor of each expert.
        others: where all that is not mixed comes from: the base, as in the paper, or the experts' average.
    """
    return base if others == "base" else torch.stack(list(experts)).mean(dim=0)
