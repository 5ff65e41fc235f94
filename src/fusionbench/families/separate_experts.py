"""Experts of a Mixtral as linear maps of their own, under the names that they have in its files."""

from typing import Any

import torch
from torch import Tensor, nn


class Expert(nn.Module):
    """w2·(act(w1·x) ⊙ w3·x)."""

    def __init__(self, width: int, inner: int, activation: nn.Module) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)
        self.activation = activation

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the outputs, `(tokens, width)`."""
        output: Tensor = self.w2(self.activation(self.w1(tokens)) * self.w3(tokens))
        return output


class SeparateExperts(nn.ModuleList):
    """What transformers holds as two stacked tensors; so every map has one name in file and module."""

    def forward(self, tokens: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """Return Σ over a token's experts of share · output.

        Args:
            tokens: `(tokens, width)`.
            chosen: numbers of the experts, `(tokens, k)`.
            shares: of these, `(tokens, k)`.
        """
        output = torch.zeros_like(tokens)
        for number, expert in enumerate(self):
            rows, places = torch.nonzero(chosen == number, as_tuple=True)
            if len(rows):
                added = expert(tokens[rows]) * shares[rows, places, None]
                output = output.index_add(0, rows, added.to(output.dtype))
        return output


def separate(module: nn.Module, config: Any) -> None:
    """Put separate experts, on the meta device, in the place of every stacked ones of a Mixtral."""
    from transformers.activations import ACT2FN

    for layer in module.get_submodule("model.layers").children():
        with torch.device("meta"):
            experts = [
                Expert(config.hidden_size, config.intermediate_size, ACT2FN[config.hidden_act])
                for _ in range(config.num_local_experts)
            ]
        layer.get_submodule("mlp").experts = SeparateExperts(experts)
