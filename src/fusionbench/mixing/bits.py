"""A linear map whose weight is the base's plus one number times signs, a bit each."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusionbench.config import Config
from fusionbench.mixing.linear import frozen, weight_of

WORD = 32
"""Signs in one integer; the first is its lowest bit."""


class BitSettings(Config):
    """How the signs lie.

    Attributes:
        inputs_last: whether the replaced weight is `(out, in)`.
    """

    inputs_last: bool = True


class BitLinear(nn.Module):
    """y = (W₀ + α·S)·x + b with S ∈ {−1, +1} (arXiv:2402.10193, eq. 3).

    Attributes:
        weight: W₀ as the replaced module had it.
        bias: b of the fine-tuned model, or None.
        scale: α, one number.
        words: S as integers, `(⌈in / 32⌉, out)`, a set bit a +1.
    """

    words: Tensor

    def __init__(self, outputs: int, inputs: int, *, bias: bool, inputs_last: bool) -> None:
        super().__init__()
        self.inputs, self.inputs_last = inputs, inputs_last
        self.weight = frozen(*((outputs, inputs) if inputs_last else (inputs, outputs)))
        self.bias = frozen(outputs) if bias else None
        self.scale = frozen(1)
        self.register_buffer("words", torch.empty(-(-inputs // WORD), outputs, dtype=torch.int32))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the outputs, `(..., out)`, of inputs `(..., in)`."""
        weight = self.weight if self.inputs_last else self.weight.T
        signs = torch.where(unpacked(self.words, self.inputs), self.scale, -self.scale).to(weight.dtype)
        return functional.linear(hidden, weight + signs, self.bias)


def packed(signs: Tensor) -> Tensor:
    """Return booleans `(out, in)` as int32 words `(⌈in / 32⌉, out)`: bit j of word w is that of input 32·w + j."""
    outputs, inputs = signs.shape
    count = -(-inputs // WORD)
    filled = torch.zeros(outputs, count * WORD, dtype=torch.int64)
    filled[:, :inputs] = signs
    words = (filled.view(outputs, count, WORD) << torch.arange(WORD)).sum(dim=-1)
    # The highest bit is the sign of a 32-bit integer.
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).T.contiguous()


def unpacked(words: Tensor, inputs: int) -> Tensor:
    """Return what `packed` packed: booleans `(out, in)`."""
    bits = (words.T[..., None] >> torch.arange(WORD, device=words.device)) & 1
    return bits.flatten(1)[:, :inputs].bool()


def build_bits(module: nn.Module, settings: BitSettings) -> BitLinear:
    """Return the map that takes the place of a linear module, on the meta device."""
    shape = weight_of(module).shape
    outputs, inputs = shape if settings.inputs_last else reversed(shape)
    with torch.device("meta"):
        return BitLinear(outputs, inputs, bias=module.bias is not None, inputs_last=settings.inputs_last)
