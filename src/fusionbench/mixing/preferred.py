"""Modules whose weights are base + Σ wᵢ·Δᵢ, with weights w that a gate makes of what the user prefers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from fusionbench.config import Config
from fusionbench.mixing.routed import Router, Size
from fusionbench.mixing.routed_linear import RoutedLinear, weigh_parts


class PreferredSettings(Config):
    """Sizes of a module that a preference weighs.

    Attributes:
        experts: how many.
        depth: layers of the gate.
        parts: names of the linear maps inside, comma-separated.
        transposed: those of them whose weight is `(in, out)`.
    """

    experts: Size
    depth: Annotated[int, Field(ge=1, le=2)]
    parts: str
    transposed: str = ""


class Preferred(nn.Module):
    """A module run with φ₀ + Σ g(r)ᵢ·Δφᵢ for a preference r, the same for every input (arXiv:2406.09770, eq. 5).

    Attributes:
        router: the gate g, from `(experts,)` to `(experts,)`: affine, or with 2·experts hidden units and ReLU.
        inner: the replaced module, whose linear maps are `RoutedLinear`.
        preference: r, `(experts,)`, on the simplex; None is the same for all experts.
    """

    preference: Tensor | None = None

    def __init__(self, inner: nn.Module, settings: PreferredSettings) -> None:
        super().__init__()
        self.experts = settings.experts
        self.router = Router(settings.experts, settings.experts, settings.depth, hidden=2 * settings.experts)
        self.inner = inner

    def forward(self, *given: Any, **named: Any) -> Any:
        """Run the module with the weights of the present preference."""
        if any(part.held is None for part in self.maps()):
            weights = self.weights()
            for part in self.maps():
                part.weights = weights
        return self.inner(*given, **named)

    def weights(self) -> Tensor:
        """Return g(r), `(experts,)`."""
        like = next(self.router.parameters())
        equal = torch.full((self.experts,), 1 / self.experts, dtype=like.dtype, device=like.device)
        preference = equal if self.preference is None else self.preference.to(like)
        weights: Tensor = self.router(preference)
        return weights

    def maps(self) -> Iterator[RoutedLinear]:
        """Yield the weighed linear maps inside."""
        return (part for part in self.inner.modules() if isinstance(part, RoutedLinear))

    def held_parts(self) -> Iterator[tuple[str, tuple[Tensor, Tensor | None]]]:
        """Yield each map's name with its merged weight, as the replaced module had it, and its merged bias."""
        for name, part in self.inner.named_modules():
            if isinstance(part, RoutedLinear) and part.held is not None:
                weight, bias = part.held
                yield name, (weight if part.inputs_last else weight.T, bias)


def build_preferred(module: nn.Module, settings: PreferredSettings) -> Preferred:
    """Return the form of a module that a preference weighs, its new parts on the meta device."""
    parts = settings.parts.split(",")
    transposed = settings.transposed.split(",")
    weighed = weigh_parts(module, parts, transposed, settings.experts, [None] * len(parts))
    with torch.device("meta"):
        return Preferred(weighed, settings)


def preferred_parts(module: nn.Module) -> list[tuple[str, Preferred]]:
    """Return the modules that a preference weighs, by name."""
    return [(name, part) for name, part in module.named_modules() if isinstance(part, Preferred)]


def prefer(module: nn.Module, preference: Sequence[float] | None) -> None:
    """Let a model answer for a preference from now on; None weighs all experts alike."""
    for _, part in preferred_parts(module):
        part.preference = None if preference is None else torch.tensor(preference, dtype=torch.float64)


@contextmanager
def merged_for(module: nn.Module, preference: Sequence[float]) -> Iterator[None]:
    """Merge a model's weights once for all passes of a `with` block, which share one graph of the gates."""
    before = [part.preference for _, part in preferred_parts(module)]
    prefer(module, preference)
    try:
        for _, part in preferred_parts(module):
            weights = part.weights()
            for linear in part.maps():
                linear.held = linear.merged(weights)
        yield
    finally:
        for (_, part), preferred in zip(preferred_parts(module), before, strict=True):
            part.preference = preferred
            for linear in part.maps():
                linear.held = None
