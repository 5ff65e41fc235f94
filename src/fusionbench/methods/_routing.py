"""MLPs whose experts are weighed by routers: how they are built of a pool."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.families import Family
from fusionbench.families.base import HasTextToText
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.mixing.mixed import MixedModel
from fusionbench.mixing.rebuild import Rebuilder, rebuild
from fusionbench.mixing.routed import ROUTER, Route
from fusionbench.mixing.sites import ModuleSite, Replacement, Setting, mlp_sites, oriented, put
from fusionbench.parameters import Count, Range
from fusionbench.registry import methods

Depth = Annotated[int, Range(0, 2)]
TABLES = 128
"""Samples that shared their experts' weights in the papers' tables: the batches that these were scored in."""
DEVIATION = 0.01
"""Standard deviation of a router's first weights."""
Tensors = Mapping[str, Tensor]


def added(base: Tensor, experts: Sequence[Tensor], *, init: float) -> Tensor:
    """Return θ₀ + λ·Σ τᵢ: task arithmetic, for what no router weighs.

    Args:
        base: a tensor of the pretrained model.
        experts: the same tensor of each expert.
        init: λ.
    """
    total = torch.zeros_like(base)
    for expert in experts:
        total = total + (expert - base)
    return base + init * total


def routed_mlp(
    site: ModuleSite, base: Tensors, experts: Sequence[Tensors], *, depth: int, init: float, route: Route = "sample",
    shared_by: int = TABLES,
) -> Replacement:  # fmt: skip
    """Return an MLP with every expert's differences beside it, and a router that weighs each by `init` at first.

    Args:
        site: an MLP.
        base: its tensors.
        experts: the same of each expert.
        depth: of the router: 0, 1 or 2.
        init: of the router's last bias, and λ of what is no linear map.
        route: what has weights of its own: a sample, a token, or the batch.
        shared_by: how many samples of a batch share weights, where the batch does.
    """
    first = next(iter(site.linears))
    width = oriented(base[f"{first}.weight"], site.linears[first]).shape[1]
    tensors = router_tensors(site, width, len(experts), depth=depth, init=init)
    tensors |= weighed_tensors(site, base, experts, init=init, inside="mlp")
    settings = {"experts": len(experts), "width": width, "depth": depth, **route_settings(route, shared_by)}
    return Replacement(tensors, "routed_mlp", settings | part_settings(site))


def weighed_tensors(
    site: ModuleSite, base: Tensors, experts: Sequence[Tensors], *, init: float, inside: str
) -> dict[str, Tensor]:
    """Return a site's tensors below the name `inside`, and every expert's differences beside its linear maps.

    What is no linear map is merged by task arithmetic with λ = `init`.
    """
    maps = {f"{name}.{kind}": (name, kind) for name in site.linears for kind in ("weight", "bias")}
    tensors: dict[str, Tensor] = {}
    for name, origin in base.items():
        if name not in maps:
            tensors[f"{inside}.{name}"] = added(origin, [expert[name] for expert in experts], init=init)
            continue
        linear, kind = maps[name]
        tensors[f"{inside}.{name}"] = origin
        turn = site.linears[linear] or kind == "bias"
        held = f"{inside}.{linear}.{'delta' if kind == 'weight' else 'shift'}"
        for number, expert in enumerate(experts):
            put(tensors, held, number, len(experts), oriented(expert[name] - origin, turn))
    return tensors


def route_settings(route: Route, shared_by: int) -> dict[str, Setting]:
    """Return what the blueprint says of what has weights of its own."""
    return {"route": route, "shared_by": shared_by} if route == "batch" else {"route": route}


def part_settings(site: ModuleSite) -> dict[str, Setting]:
    """Return what the blueprint says of a site's linear maps."""
    turned = ",".join(name for name, inputs_last in site.linears.items() if not inputs_last)
    return {"parts": ",".join(site.linears), "transposed": turned}


def router_tensors(
    site: ModuleSite, width: int, experts: int, *, depth: int, init: float, hidden: int | None = None
) -> dict[str, Tensor]:
    """Return a router's first tensors: weights N(0, 0.01²), hidden bias 0, last bias or free vector `init`."""
    middle = hidden or width
    generator = torch.Generator().manual_seed((site.seed + site.depth) % 2**63)
    if depth == 0:
        return {"router.free": torch.full((experts,), init)}
    tensors = {}
    if depth == 2:
        tensors["router.layers.0.weight"] = DEVIATION * torch.randn(middle, width, generator=generator)
        tensors["router.layers.0.bias"] = torch.zeros(middle)
    last = f"router.layers.{2 * (depth - 1)}"
    tensors[f"{last}.weight"] = DEVIATION * torch.randn(experts, middle if depth == 2 else width, generator=generator)
    return {**tensors, f"{last}.bias": torch.full((experts,), init)}


def check_route(family: Family, route: Route, method: str) -> None:
    """Refuse to average over the tokens of a text that is being written.

    Raises:
        ConfigError: with what to choose instead.
    """
    if isinstance(family, HasTextToText) and route != "token":
        raise ConfigError(
            f"method.route={route} would let {method} look at tokens that are not written yet: the family "
            f"{family.name!r} writes text. Choose method.route=token."
        )


def build_routed_model(
    pool: Pool, context: Context, method: str, values: Mapping[str, Any],
    replace_mlp: Callable[..., Replacement] = routed_mlp,
) -> MixedModel:  # fmt: skip
    """Return the pool's model with routed MLPs; everything else is task arithmetic.

    Raises:
        MissingPart: where the family names no MLPs.
        ConfigError: where there is no base.
    """
    check_route(context.family, values["route"], method)
    return build_mixture(pool, context, method, values, replace_mlp, mlp_sites)


def build_mixture(
    pool: Pool, context: Context, method: str, values: Mapping[str, Any],
    replace_site: Callable[..., Replacement], sites: Callable[..., list[ModuleSite]],
) -> MixedModel:  # fmt: skip
    """Return the pool's model with its sites replaced; everything else is task arithmetic.

    Raises:
        MissingPart: where the family names no such sites.
        ConfigError: where there is no base.
    """
    tensors: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> None:
        # Routers learn in float32, so that all they multiply is kept in it.
        tensors[name] = tensor.float() if tensor.is_floating_point() else tensor

    rebuilder = Rebuilder(method, replace_site, sites, rest=added)
    made = rebuild(pool, rebuilder, values, keep, seed=context.seed)
    blueprint = made.blueprint(methods[method], values, pool)
    if blueprint is None:
        raise ConfigError(f"{method}: the family {context.family.name!r} has no MLP.")
    return MixedModel(tensors, blueprint, context.family, pool.reference, device=context.device)


@dataclass(frozen=True, slots=True)
class Routing:
    """What all models of routed MLPs have in common; the defaults are WEMoE's (arXiv:2402.00433).

    Attributes:
        init: λ of task arithmetic outside the MLPs' linear maps, and every weight at the start; the papers' is 0.3.
        route: what has weights of its own: each sample, as in WEMoE's paper; each token, for models that write text; or
            the batch, as in the papers' tables, whose answers then depend on what is in it.
        shared_by: with route=batch how many samples share weights, in the order of the data: 128 in the papers' tables.
            Evaluation runs 256 at a time, so take a divisor of that.
        routers: artefacts/routers of an earlier run: no adaptation, only the model.
    """

    init: float = 0.3
    route: Route = "sample"
    shared_by: Count = TABLES
    routers: str | None = None

    @property
    def values(self) -> dict[str, Any]:
        """What a routed MLP is built with."""
        return {"init": self.init, "route": self.route, "shared_by": self.shared_by}


ROUTING = Routing()


def routers_of(model: MixedModel) -> dict[str, torch.nn.Parameter]:
    """Return the tensors of a model's routers by name."""
    return {name: parameter for name, parameter in model.module.named_parameters() if ROUTER in name}
