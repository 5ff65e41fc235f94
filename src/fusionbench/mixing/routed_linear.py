"""A linear map whose weight is the base's plus every expert's change, each by a weight that is set from outside."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusionbench.errors import CheckpointError
from fusionbench.mixing.bits import WORD, unpacked
from fusionbench.mixing.linear import Form, frozen, replace_linears

SLAB = 2**23
"""Entries of merged weights, over all samples, that are held at a time where no gradient is asked for."""
FEW = 2
"""Tokens up to which a product an expert costs no more than merging the weights."""


class RoutedLinear(nn.Module):
    """A linear map with weight W₀ + Σ wᵢ·ΔWᵢ and bias b₀ + Σ wᵢ·Δbᵢ.

    Attributes:
        weight: W₀ as the replaced module had it.
        bias: b₀, or None.
        delta: ΔW of every expert, `(experts, out, in)`; None where only some entries are stored.
        values: those entries, in order, or None.
        mask: which they are, as `bits.packed` packs `(experts·out, in)`, or None.
        shift: Δb, `(experts, out)`, or None.
        weights: w, `(experts,)`, `(samples, experts)` or `(samples, tokens, experts)`; the module around sets it.
        held: the merged weight and bias, where the module around has them merged beforehand.
    """

    weights: Tensor
    held: tuple[Tensor, Tensor | None] | None = None
    mask: Tensor | None

    def __init__(
        self, outputs: int, inputs: int, experts: int, *, bias: bool, inputs_last: bool, kept: int | None = None
    ) -> None:
        super().__init__()
        self.inputs_last, self.shape = inputs_last, (experts, outputs, inputs)
        self.weight = frozen(*((outputs, inputs) if inputs_last else (inputs, outputs)))
        self.bias = frozen(outputs) if bias else None
        self.delta = frozen(experts, outputs, inputs) if kept is None else None
        self.values = frozen(kept) if kept is not None else None
        words = torch.empty(-(-inputs // WORD), experts * outputs, dtype=torch.int32)
        self.register_buffer("mask", words if kept is not None else None)
        self.shift = frozen(experts, outputs) if bias else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the outputs, `(samples, …, out)`."""
        if self.held is not None or self.weights.ndim == 1:
            return functional.linear(hidden, *(self.held or self.merged(self.weights)))
        weight = self.weight if self.inputs_last else self.weight.T
        each = self.weights.reshape(-1, self.weights.shape[-1])
        rows = hidden.reshape(len(each), -1, hidden.shape[-1])
        needed = torch.is_grad_enabled() and (self.weights.requires_grad or hidden.requires_grad)
        product = by_products if needed or rows.shape[1] <= FEW else by_slabs
        output = product(rows, weight, self.deltas(), each)
        bias = self._bias(each)
        if bias is not None:
            output = output + bias[:, None]
        return output.view(*hidden.shape[:-1], -1)

    def merged(self, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return W₀ + Σ wᵢ·ΔWᵢ, `(out, in)`, and the bias of weights w, `(experts,)`."""
        weight, deltas = self.weight if self.inputs_last else self.weight.T, self.deltas()
        # One product that starts from W₀: a sum apart would pass over all weights once more.
        merged = torch.addmm(weight.reshape(1, -1), weights[None], deltas.flatten(1))
        return merged.view(deltas.shape[1:]), self._bias(weights)

    def deltas(self) -> Tensor:
        """Return ΔW of every expert, `(experts, out, in)`; where only some entries are stored they are spread out once.

        Raises:
            CheckpointError: where the mask marks more or fewer entries than are stored.
        """
        if self.delta is not None:
            return self.delta
        assert self.values is not None
        filled = 0 if self.values.is_inference() else self.values._version
        source, version, spread = self.__dict__.get("_spread", (None, None, None))
        if source is not self.values or version != filled:
            assert self.mask is not None
            chosen = unpacked(self.mask, self.shape[2])
            if int(chosen.sum()) != self.values.numel():
                raise CheckpointError(
                    f"A sparse map marks {int(chosen.sum())} entries and stores {self.values.numel()}: it is damaged."
                )
            spread = torch.zeros(chosen.shape, dtype=self.values.dtype, device=self.values.device)
            spread[chosen] = self.values.detach()
            spread = spread.view(self.shape)
            self.__dict__["_spread"] = self.values, filled, spread
        return cast(Tensor, spread)

    def _apply(self, *change: Any, **how: Any) -> Any:
        """Forget what was spread out of entries that are cast or moved now."""
        self.__dict__.pop("_spread", None)
        return super()._apply(*change, **how)  # type: ignore[no-untyped-call]

    def _bias(self, weights: Tensor) -> Tensor | None:
        return None if self.bias is None or self.shift is None else self.bias + weights @ self.shift


def by_products(rows: Tensor, weight: Tensor, delta: Tensor, weights: Tensor) -> Tensor:
    """Return x·W₀ᵀ + Σ (wᵢ·x)·ΔWᵢᵀ; no merged weight exists, and no product is kept for the backward pass.

    Args:
        rows: inputs, `(samples, tokens, in)`.
        weight: `(out, in)`.
        delta: `(experts, out, in)`.
        weights: `(samples, experts)`.
    """
    output = functional.linear(rows, weight)
    for number, matrix in enumerate(delta):
        output = output + functional.linear(rows * weights[:, number, None, None], matrix)
    return output


def by_slabs(rows: Tensor, weight: Tensor, delta: Tensor, weights: Tensor) -> Tensor:
    """Return the same as `by_products`; a slab of output rows is merged for all samples, used, and forgotten.

    With many tokens a sample this takes far fewer operations than a product an expert.
    """
    samples, _, inputs = rows.shape
    height = max(1, SLAB // (samples * inputs))
    parts = []
    for start in range(0, len(weight), height):
        slab = delta[:, start : start + height]
        merged = torch.addmm(weight[start : start + height].reshape(1, -1), weights, slab.reshape(len(delta), -1)).view(
            samples, -1, inputs
        )
        parts.append(torch.bmm(rows, merged.transpose(1, 2)))
    return torch.cat(parts, dim=-1)


def weigh_parts(
    module: nn.Module, parts: Sequence[str], transposed: Sequence[str], experts: int, kept: Sequence[int | None]
) -> nn.Module:
    """Return a module whose linear maps are weighed ones, on the meta device.

    Args:
        module: the module that is replaced; it is changed.
        parts: names of its linear maps.
        transposed: those of them whose weight is `(in, out)`.
        experts: how many.
        kept: for each map the number of stored entries of all experts' ΔW; None for all.

    Raises:
        CheckpointError: where a map is not there, or is none.
    """
    stored = dict(zip(parts, kept, strict=True))

    def weighed(name: str, form: Form) -> RoutedLinear:
        return RoutedLinear(
            form.outputs, form.inputs, experts, bias=form.bias, inputs_last=form.inputs_last, kept=stored[name]
        )

    return replace_linears(module, parts, transposed, weighed)
