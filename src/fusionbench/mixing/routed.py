"""An MLP whose weights are base + Σ wᵢ·Δᵢ, with weights w that a router reads off its input."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fusionbench.config import Config
from fusionbench.errors import CheckpointError
from fusionbench.mixing.bits import WORD, unpacked
from fusionbench.mixing.linear import frozen, weight_of

Size = Annotated[int, Field(ge=1, le=2**20)]
Route = Literal["sample", "batch", "token"]
ROUTER = ".router."
"""Part of the names of a router's tensors."""
SLAB = 2**23
"""Entries of merged weights, over all samples, that are held at a time where no gradient is asked for."""
FEW = 2
"""Tokens up to which a product an expert costs no more than merging the weights."""


class RoutedSettings(Config):
    """Sizes of a routed MLP.

    Attributes:
        experts: how many.
        width: of the router's input; without meaning at depth 0.
        depth: layers of the router.
        route: whether each sample or each token has weights of its own, or the batch shares their mean.
        parts: names of the linear maps inside, comma-separated.
        transposed: those of them whose weight is `(in, out)`.
        kept: for each part how many entries of all experts' ΔW are stored, comma-separated; empty where all are.
        shared: the router is that of the first routed MLP of the model that has one.
    """

    experts: Size
    width: Size
    depth: Annotated[int, Field(ge=0, le=2)]
    route: Route = "sample"
    parts: str
    transposed: str = ""
    kept: Annotated[str, Field(pattern=r"^(\d{1,15}(,\d{1,15})*)?$")] = ""
    shared: bool = False


class Router(nn.Module):
    """From inputs `(…, width)` to one weight an expert, `(…, experts)`, not normalised (arXiv:2402.00433, §4.2).

    Depth 0 is a free vector; depth 1 is affine; depth 2 has one hidden layer of the input's width and ReLU.
    """

    def __init__(self, width: int, experts: int, depth: int) -> None:
        super().__init__()
        inner = [nn.Linear(width, width), nn.ReLU()] if depth == 2 else []
        self.free = nn.Parameter(torch.empty(experts)) if depth == 0 else None
        self.layers = nn.Sequential(*inner, nn.Linear(width, experts)) if depth else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the weights of each input.

        Raises:
            TypeError: at depth 0, where `free` are the weights of all.
        """
        if self.layers is None:
            raise TypeError("A router without layers reads no input.")
        weights: Tensor = self.layers(hidden)
        return weights


class RoutedLinear(nn.Module):
    """A linear map with weight W₀ + Σ wᵢ·ΔWᵢ and bias b₀ + Σ wᵢ·Δbᵢ.

    Attributes:
        weight: W₀ as the replaced module had it.
        bias: b₀, or None.
        delta: ΔW of every expert, `(experts, out, in)`; None where only some entries are stored.
        values: those entries, in order, or None.
        mask: which they are, as `bits.packed` packs `(experts·out, in)`, or None.
        shift: Δb, `(experts, out)`, or None.
        weights: w, `(experts,)`, `(samples, experts)` or `(samples, tokens, experts)`; the MLP around sets it.
    """

    weights: Tensor
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
        weight = self.weight if self.inputs_last else self.weight.T
        if self.weights.ndim == 1:
            merged = weight + torch.tensordot(self.weights, self.deltas(), dims=1)
            return functional.linear(hidden, merged, self._bias(self.weights))
        each = self.weights.reshape(-1, self.weights.shape[-1])
        rows = hidden.reshape(len(each), -1, hidden.shape[-1])
        needed = torch.is_grad_enabled() and (self.weights.requires_grad or hidden.requires_grad)
        product = by_products if needed or rows.shape[1] <= FEW else by_slabs
        output = product(rows, weight, self.deltas(), each)
        bias = self._bias(each)
        if bias is not None:
            output = output + bias[:, None]
        return output.view(*hidden.shape[:-1], -1)

    def deltas(self) -> Tensor:
        """Return ΔW of every expert; where only some entries are stored they are spread out once, and kept."""
        if self.delta is not None:
            return self.delta
        held: Tensor | None = self.__dict__.get("_spread")
        if held is None:
            assert self.values is not None
            assert self.mask is not None
            chosen = unpacked(self.mask, self.shape[2])
            if int(chosen.sum()) != self.values.numel():
                raise CheckpointError(
                    f"A sparse map marks {int(chosen.sum())} entries and stores {self.values.numel()}: it is damaged."
                )
            spread = torch.zeros(chosen.shape, dtype=self.values.dtype, device=self.values.device)
            spread[chosen] = self.values.detach()
            held = self.__dict__["_spread"] = spread.view(self.shape)
        return held

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


class RoutedMlp(nn.Module):
    """An MLP whose linear maps are merged anew for each sample, by weights that a router reads off the MLP's input.

    Attributes:
        router: the only part that is trained.
        mlp: the replaced module, whose linear maps are `RoutedLinear`.
        mask: which tokens of the present batch are real, `(samples, tokens)`; None where all are.
    """

    mask: Tensor | None = None

    def __init__(self, mlp: nn.Module, settings: RoutedSettings) -> None:
        super().__init__()
        self.route_by = settings.route
        self.router = None if settings.shared else Router(settings.width, settings.experts, settings.depth)
        self.mlp = mlp

    def borrow(self, router: Router) -> None:
        """Use another MLP's router, which stays that one's own: it is saved and trained there, once."""
        self.__dict__["borrowed"] = router

    def forward(self, hidden: Tensor, *rest: Any, **named: Any) -> Any:
        """Run the MLP on `(samples, tokens, width)` or `(samples, width)` with the weights of this input."""
        weights = self.route(hidden)
        for part in self.mlp.modules():
            if isinstance(part, RoutedLinear):
                part.weights = weights
        return self.mlp(hidden, *rest, **named)

    def route(self, hidden: Tensor) -> Tensor:
        """Return `(samples, experts)`, or `(experts,)` shared by the batch: means over real tokens; or each token's."""
        router: Router = self.router or self.__dict__["borrowed"]
        if router.free is not None:
            return router.free
        weights: Tensor = router(hidden)
        if self.route_by == "token":
            return weights
        if weights.ndim > 2:
            real = torch.ones_like(weights[..., :1]) if self.mask is None else self.mask.to(weights.dtype)[..., None]
            weights = (weights * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        return weights.mean(dim=0) if self.route_by == "batch" else weights


def build_routed(module: nn.Module, settings: RoutedSettings) -> RoutedMlp:
    """Return the routed form of an MLP, its new parts on the meta device."""
    transposed, named = set(settings.transposed.split(",")), dict(module.named_modules())
    parts = settings.parts.split(",")
    kept = [int(count) for count in settings.kept.split(",")] if settings.kept else [None] * len(parts)
    if len(kept) != len(parts):
        raise CheckpointError(f"The blueprint has {len(kept)} numbers of entries for the maps {', '.join(parts)}.")
    with torch.device("meta"):
        for name, count in zip(parts, kept, strict=True):
            linear = named.get(name)
            if linear is None:
                raise CheckpointError(f"The blueprint routes {name!r}, which a {type(module).__name__} does not have.")
            shape = weight_of(linear).shape
            outputs, inputs = reversed(shape) if name in transposed else shape
            routed = RoutedLinear(outputs, inputs, settings.experts, bias=linear.bias is not None,
                                  inputs_last=name not in transposed, kept=count)  # fmt: skip
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, routed)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        return RoutedMlp(module, settings)


def share_router(module: nn.Module) -> None:
    """Let every routed MLP without a router of its own use the first one's.

    Raises:
        CheckpointError: where there is none to use.
    """
    routed = [part for part in module.modules() if isinstance(part, RoutedMlp)]
    lent = next((part.router for part in routed if part.router is not None), None)
    for part in routed:
        if part.router is None:
            if lent is None:
                raise CheckpointError("The blueprint shares a router, and no module has one.")
            part.borrow(lent)


@contextmanager
def routing_mask(module: nn.Module, mask: Tensor | None) -> Iterator[None]:
    """Tell every routed MLP for a `with` block which tokens are real."""
    routed = [part for part in module.modules() if isinstance(part, RoutedMlp)]
    for part in routed:
        part.mask = mask
    try:
        yield
    finally:
        for part in routed:
            part.mask = None
