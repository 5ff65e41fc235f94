"""A linear map with many experts of rank one beside it, each by a weight that is set from outside."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusionbench.mixing.linear import Form, frozen

SHARPNESS = 100.0
"""Of the soft choice among weights."""


class RankOneLinear(nn.Module):
    """y = W₀·x + Σⱼ gⱼ·sⱼ·uⱼ·(vⱼᵀ·x) + b, a weight g for each triple of all experts.

    Attributes:
        weight: W₀ as the replaced module had it.
        bias: b, or None.
        left: sⱼ·uⱼ as columns, `(out, triples)`.
        right: vⱼᵀ as rows, `(triples, in)`.
        weights: g, `(triples,)`, `(samples, triples)` or `(samples, tokens, triples)`; the module around sets it.
    """

    weights: Tensor

    def __init__(self, form: Form, triples: int, chosen: int = 0) -> None:
        super().__init__()
        outputs, inputs, bias, inputs_last = form
        self.inputs_last, self.chosen = inputs_last, chosen
        self.weight = frozen(*((outputs, inputs) if inputs_last else (inputs, outputs)))
        self.bias = frozen(outputs) if bias else None
        self.left = frozen(outputs, triples)
        self.right = frozen(triples, inputs)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the outputs, `(samples, …, out)`."""
        weights = soft_top(self.weights, self.chosen) if self.chosen else self.weights
        if weights.ndim == 2:
            weights = weights.view(len(weights), *(1 for _ in hidden.shape[1:-1]), -1)
        weight = self.weight if self.inputs_last else self.weight.T
        added = functional.linear(functional.linear(hidden, self.right) * weights, self.left)
        return functional.linear(hidden, weight, self.bias) + added


def soft_top(weights: Tensor, count: int) -> Tensor:
    """Return g·σ(100·(g − t)), t the `count`-th largest of the last axis: those above stay, t itself is halved."""
    limit = weights.topk(count, dim=-1).values[..., -1:]
    return weights * torch.sigmoid(SHARPNESS * (weights - limit))
