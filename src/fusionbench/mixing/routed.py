"""An MLP whose weights are base + Σ wᵢ·Δᵢ, with weights w that a router reads off its input."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fusionbench.config import Config
from fusionbench.errors import CheckpointError
from fusionbench.mixing.rank_one_linear import RankOneLinear
from fusionbench.mixing.routed_linear import RoutedLinear, weigh_parts

Size = Annotated[int, Field(ge=1, le=2**20)]
Route = Literal["sample", "batch", "token"]
ROUTER = ".router."
"""Part of the names of a router's tensors."""


class RoutedSettings(Config):
    """Sizes of a routed MLP.

    Attributes:
        experts: how many.
        width: of the router's input; without meaning at depth 0.
        depth: layers of the router.
        route: whether each sample or each token has weights of its own, or the batch shares their mean.
        shared_by: how many samples of a batch share a mean, in their order; 0 is all of the batch.
        parts: names of the linear maps inside, comma-separated.
        transposed: those of them whose weight is `(in, out)`.
        kept: for each part how many entries of all experts' ΔW are stored, comma-separated; empty where all are.
        shared: the router is that of the first routed MLP of the model that has one.
    """

    experts: Size
    width: Size
    depth: Annotated[int, Field(ge=0, le=2)]
    route: Route = "sample"
    shared_by: Annotated[int, Field(ge=0, le=2**20)] = 0
    parts: str
    transposed: str = ""
    kept: Annotated[str, Field(pattern=r"^(\d{1,15}(,\d{1,15})*)?$")] = ""
    shared: bool = False


class Router(nn.Module):
    """From inputs `(…, width)` to one weight an expert, `(…, experts)`, not normalised (arXiv:2402.00433, §4.2).

    Depth 0 is a free vector; depth 1 is affine; depth 2 has one hidden layer, of the input's width unless `hidden` is
    given, and ReLU.
    """

    def __init__(self, width: int, experts: int, depth: int, hidden: int | None = None) -> None:
        super().__init__()
        middle = hidden or width
        inner = [nn.Linear(width, middle), nn.ReLU()] if depth == 2 else []
        self.free = nn.Parameter(torch.empty(experts)) if depth == 0 else None
        self.layers = nn.Sequential(*inner, nn.Linear(middle if inner else width, experts)) if depth else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the weights of each input.

        Raises:
            TypeError: at depth 0, where `free` are the weights of all.
        """
        if self.layers is None:
            raise TypeError("A router without layers reads no input.")
        weights: Tensor = self.layers(hidden)
        return weights


class RoutedMlp(nn.Module):
    """An MLP whose linear maps are merged anew for each sample, by weights that a router reads off the MLP's input.

    Attributes:
        router: the only part that is trained.
        mlp: the replaced module, whose linear maps are `RoutedLinear` or `RankOneLinear`.
        mask: which tokens of the present batch are real, `(samples, tokens)`; None where all are.
    """

    mask: Tensor | None = None

    def __init__(self, mlp: nn.Module, router: Router | None, route: Route, shared_by: int = 0) -> None:
        super().__init__()
        self.route_by, self.router, self.mlp = route, router, mlp
        self.shared_by = shared_by if route == "batch" else 0

    def borrow(self, router: Router) -> None:
        """Use another MLP's router, which stays that one's own: it is saved and trained there, once."""
        self.__dict__["borrowed"] = router

    def forward(self, hidden: Tensor, *rest: Any, **named: Any) -> Any:
        """Run the MLP on `(samples, tokens, width)`, `(samples, width)` or maps with the weights of this input."""
        if not 0 < self.shared_by < len(hidden):
            return self._run(hidden, self.mask, rest, named)
        groups = [slice(start, start + self.shared_by) for start in range(0, len(hidden), self.shared_by)]
        masks = [None if self.mask is None else self.mask[group] for group in groups]
        parts = zip(groups, masks, strict=True)
        return torch.cat([self._run(hidden[group], mask, rest, named) for group, mask in parts])

    def _run(self, hidden: Tensor, mask: Tensor | None, rest: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        weights = self.route(hidden, mask)
        for part in self.mlp.modules():
            if isinstance(part, RoutedLinear | RankOneLinear):
                part.weights = weights
        return self.mlp(hidden, *rest, **named)

    def route(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `(samples, experts)`, or `(experts,)` shared by all: means over real tokens; or each token's.

        Args:
            hidden: the MLP's input.
            mask: which tokens are real, `(samples, tokens)`; None where all are.
        """
        router: Router = self.router or self.__dict__["borrowed"]
        if router.free is not None:
            return router.free
        if hidden.ndim == 4:
            # Maps `(samples, channels, height, width)`, as a ConvNeXt's blocks pass on: their places are the tokens.
            hidden = hidden.flatten(2).transpose(1, 2)
        weights: Tensor = router(hidden)
        if self.route_by == "token":
            return weights
        if weights.ndim > 2:
            real = torch.ones_like(weights[..., :1]) if mask is None else mask.to(weights.dtype)[..., None]
            weights = (weights * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        return weights.mean(dim=0) if self.route_by == "batch" else weights


def build_routed(module: nn.Module, settings: RoutedSettings) -> RoutedMlp:
    """Return the routed form of an MLP, its new parts on the meta device.

    Raises:
        CheckpointError: where the settings name more or fewer sparse maps than there are parts.
    """
    parts = settings.parts.split(",")
    kept = [int(count) for count in settings.kept.split(",")] if settings.kept else [None] * len(parts)
    if len(kept) != len(parts):
        raise CheckpointError(f"The blueprint has {len(kept)} numbers of entries for the maps {', '.join(parts)}.")
    weighed = weigh_parts(module, parts, settings.transposed.split(","), settings.experts, kept)
    with torch.device("meta"):
        router = None if settings.shared else Router(settings.width, settings.experts, settings.depth)
        return RoutedMlp(weighed, router, settings.route, settings.shared_by)


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


def check_written(module: nn.Module) -> None:
    """Refuse a model that writes text and weighs its tokens together: it would look at those that are not written yet.

    Raises:
        CheckpointError: naming the first such module.
    """
    for name, part in module.named_modules():
        if isinstance(part, RoutedMlp) and part.route_by != "token":
            raise CheckpointError(
                f"{name}: the blueprint routes by {part.route_by}, and a model that writes text can be routed by token "
                "alone. Fuse again with method.route=token."
            )


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
