"""A linear map with low-rank or dense experts beside it, chosen for each token by the directions they listen to."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fusionbench.config import Config
from fusionbench.errors import CheckpointError
from fusionbench.mixing.linear import frozen, weight_of

Size = Annotated[int, Field(ge=1, le=2**20)]


class SmileSettings(Config):
    """Sizes of a SMILE map.

    Attributes:
        experts: how many.
        router: directions of the gate an expert, k_gate; without meaning for a single expert.
        rank: k of the experts; 0 for dense ones.
        top: experts a token.
        inputs_last: whether the replaced weight is `(out, in)`.
    """

    experts: Size
    router: Size
    rank: Annotated[int, Field(ge=0, le=2**20)]
    top: Size
    inputs_last: bool = True


class SmileLinear(nn.Module):
    """y = W₀·x + b₀ + Σ_{i in top} pᵢ·(Uᵢ·(ΣᵢVᵢᵀ·x) + Δbᵢ), p a softmax of ‖V̂ᵢᵀ·x‖ over the chosen (arXiv:2408.10174).

    Attributes:
        weight: W₀ as the replaced module had it.
        bias: b₀, or None.
        gate: V̂ᵀ of every expert, `(experts, router, in)`; None for a single expert, which is always chosen.
        left: U, `(experts, out, rank)`; None where experts are dense.
        right: ΣVᵀ, `(experts, rank, in)`, or the dense ΔW, `(experts, out, in)`.
        shift: Δb, `(experts, out)`, or None.
    """

    def __init__(self, outputs: int, inputs: int, *, bias: bool, settings: SmileSettings) -> None:
        super().__init__()
        count, rank = settings.experts, settings.rank
        self.top, self.inputs_last = settings.top, settings.inputs_last
        self.weight = frozen(*((outputs, inputs) if settings.inputs_last else (inputs, outputs)))
        self.bias = frozen(outputs) if bias else None
        self.gate = frozen(count, settings.router, inputs) if count > 1 else None
        self.left = frozen(count, outputs, rank) if rank else None
        self.right = frozen(count, rank or outputs, inputs)
        self.shift = frozen(count, outputs) if bias else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the outputs, `(..., out)`, of inputs `(..., in)`; every token is routed by itself."""
        weight = self.weight if self.inputs_last else self.weight.T
        tokens = hidden.reshape(-1, hidden.shape[-1])
        output = functional.linear(tokens, weight, self.bias)
        if self.gate is None:
            output = output + self._expert(0, tokens)
        else:
            chosen, shares = self.route(tokens)
            for number in range(len(self.right)):
                rows, places = torch.nonzero(chosen == number, as_tuple=True)
                if len(rows):
                    added = self._expert(number, tokens.index_select(0, rows))
                    # In place: a copy of all outputs for every expert takes a tenth of the whole pass.
                    output.index_add_(0, rows, added if self.top == 1 else added * shares[rows, places, None])
        return output.view(*hidden.shape[:-1], -1)

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of the chosen experts and their shares, both `(tokens, top)`; shares sum to 1."""
        assert self.gate is not None
        count, router, inputs = self.gate.shape
        heard = functional.linear(tokens, self.gate.reshape(count * router, inputs)).view(-1, count, router)
        lengths = torch.linalg.vector_norm(heard.float(), dim=-1)
        if self.top == 1:
            return lengths.argmax(dim=-1, keepdim=True), torch.ones_like(lengths[:, :1], dtype=tokens.dtype)
        shares, chosen = lengths.softmax(dim=-1).topk(self.top, dim=-1)
        return chosen, (shares / shares.sum(dim=-1, keepdim=True)).to(tokens.dtype)

    def _expert(self, number: int, tokens: Tensor) -> Tensor:
        shift = None if self.shift is None else self.shift[number]
        if self.left is None:
            return functional.linear(tokens, self.right[number], shift)
        return functional.linear(functional.linear(tokens, self.right[number]), self.left[number], shift)


def build_smile(module: nn.Module, settings: SmileSettings) -> SmileLinear:
    """Return the map that takes the place of a linear module, on the meta device.

    Raises:
        CheckpointError: where the module is no linear map, or more experts are to be chosen than there are.
    """
    if settings.top > settings.experts:
        raise CheckpointError(f"The blueprint chooses {settings.top} of {settings.experts} experts a token.")
    shape = weight_of(module).shape
    outputs, inputs = shape if settings.inputs_last else reversed(shape)
    with torch.device("meta"):
        return SmileLinear(outputs, inputs, bias=module.bias is not None, settings=settings)
