"""What tasks of every kind ask of a model's outputs: whether they are numbers, and how unsure a prediction is."""

import torch
from torch import Tensor

from fusionbench.errors import NotFinite


def finite(outputs: Tensor, task: str, what: str = "logits") -> Tensor:
    """Return outputs as they are.

    Args:
        outputs: of a model.
        task: whose name the error says.
        what: the outputs are, in the error's words.

    Raises:
        NotFinite: where one is NaN or Inf, so that the model's answer means nothing.
    """
    if not bool(torch.isfinite(outputs).all()):
        raise NotFinite(f"The model's {what} for the task {task} hold NaN or Inf; its weights are broken.")
    return outputs


def entropies(logits: Tensor, dim: int = -1) -> Tensor:
    """Return the entropy of each prediction in nats, −Σ p·log p over `dim` (arXiv:2310.02575, eq. 5)."""
    log = logits.log_softmax(dim=dim)
    return -(log.exp() * log).sum(dim=dim)
