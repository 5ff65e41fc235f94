"""MLPs whose experts are weighed by routers: how they are built of a pool, and how the routers learn."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.families import Family
from fusionbench.families.base import HasTextToText
from fusionbench.merge import Pool
from fusionbench.methods._adaptation import AdaptSplit
from fusionbench.methods._context import Context
from fusionbench.methods._drawing import Drawn, check_adaptable, drawn_from, own_part
from fusionbench.mixing.mixed import MixedModel
from fusionbench.mixing.rebuild import Rebuilder, rebuild
from fusionbench.mixing.routed import ROUTER, Route
from fusionbench.mixing.sites import ModuleSite, Replacement, Setting, mlp_sites, oriented, put
from fusionbench.parameters import Count, Positive, Range, StepCount
from fusionbench.registry import methods
from fusionbench.tasks import Task
from fusionbench.training import State, Steps
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

Depth = Annotated[int, Range(0, 2)]
ROUTERS = "routers"
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
class RouterTraining:
    """How routers learn on unlabelled inputs; the defaults are WEMoE's (arXiv:2402.00433).

    Attributes:
        steps: of Adam; 0 leaves the routers as they start, which is task arithmetic but for their noise.
        batch: inputs of each task a step.
        learning_rate: of Adam (0.9, 0.999).
        schedule: of the rate.
        adapt_split: where unlabelled inputs come from: test, as the papers do, or validation, disjoint from it.
        checkpoint_every: steps between checkpoints, from which a stopped run goes on.
        evaluate_every: steps between scores on validation data in the curve; 0 is never.
    """

    steps: StepCount = 1000
    batch: Count = 16
    learning_rate: Positive = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    adapt_split: AdaptSplit = "test"
    checkpoint_every: Count = 100
    evaluate_every: int = 0

    def run(self, model: MixedModel, tasks: Mapping[str, Task], context: Context, name: str) -> None:
        """Minimise Σ over tasks of the mean entropy of predictions, in the routers' tensors alone.

        Raises:
            NotAdaptable: where a task has no objective without labels, before anything long.
            Interrupted: on Ctrl-C; the same command goes on from the last checkpoint.
        """
        predictors = {task: tasks[task].bind(model.module) for task in tasks}
        check_adaptable(tasks, predictors, self.adapt_split, context.device)
        masked = {task: model.for_task(tasks[task]) for task in tasks}
        trained = routers_of(model)
        model.module.requires_grad_(False)
        for parameter in trained.values():
            parameter.requires_grad_(True)

        def batches(start: int) -> Iterator[Drawn]:
            own = own_part(tasks, context.loop.processes)
            return drawn_from(own, self.adapt_split, size=self.batch, seed=context.seed, start=start, labels=False)

        def step(state: State, drawn: Drawn) -> dict[str, Tensor]:
            total = torch.zeros((), device=context.device)
            for place, name in enumerate(tasks):
                one, share = state.processes.part_of(drawn[name], place, len(tasks)) if name in drawn else ({}, 0.0)
                if share:
                    loss = share * tasks[name].objective(masked[name], one)
                    state.backward(loss)
                    total += loss.detach()
            return {"loss": state.processes.sum(total)}

        def validate() -> dict[str, float]:
            scores = context.evaluate(model)
            return {"validation": sum(scores.values()) / len(scores), **scores}

        course = Steps(self.steps, schedule=self.schedule, seed=context.seed, validate_every=self.evaluate_every)
        optimizer = torch.optim.Adam(list(trained.values()), lr=self.learning_rate)
        loop = replace(context.loop, checkpoint_every=self.checkpoint_every)
        loop.run(
            name, course, step, batches, trained, optimizer, validate=validate if self.evaluate_every > 0 else None
        )
        for parameter in trained.values():
            parameter.requires_grad_(False)
        context.used("adapted", split=self.adapt_split, tasks=tuple(tasks), count=self.steps * self.batch)


def with_learned_routers(
    model: MixedModel, tasks: Mapping[str, Task], context: Context, method: str, training: RouterTraining,
    routers: str | None, route: Route,
) -> MixedModel:  # fmt: skip
    """Return a model whose routers learned, or were given, and keep them for another run.

    Args:
        model: with the routers as they start.
        tasks: on whose inputs they learn.
        context: of the run.
        method: names the training.
        training: how they learn; of no steps they stay.
        routers: artefacts/routers of an earlier run, which are taken instead.
        route: what the report says of it.

    Raises:
        NotAdaptable: where a task has no objective without labels.
        ConfigError: where the given routers are of another model.
    """
    if routers is not None:
        put_routers(model, Path(routers))
    elif training.steps > 0:
        if route == "batch" and context.loop.processes.count > len(tasks):
            raise ConfigError(
                f"method.route=batch weighs by a whole batch, which {context.loop.processes.count} processes would "
                f"divide, of {len(tasks)} tasks. Start as many processes at most, or choose method.route=sample."
            )
        training.run(model, tasks, context, method)
    context.save(ROUTERS, {name: tensor.detach().cpu() for name, tensor in routers_of(model).items()}, {})
    context.note(f"the experts are weighed by {route}")
    return model


def routers_of(model: MixedModel) -> dict[str, torch.nn.Parameter]:
    """Return the tensors of a model's routers by name."""
    return {name: parameter for name, parameter in model.module.named_parameters() if ROUTER in name}


@torch.no_grad()
def put_routers(model: MixedModel, path: Path, parameter: str = "routers") -> None:
    """Fill a model's routers with those that an earlier run saved; `parameter` is the method's that names the path.

    Raises:
        ConfigError: where they are missing, or of another form.
    """
    found = LazyWeights(open_source(path))
    own = routers_of(model)
    if {name: tuple(found[name].shape) for name in found} != {name: tuple(own[name].shape) for name in own}:
        raise ConfigError(f"{path} holds {parameter} of another model. Leave method.{parameter} out to learn anew.")
    for name, router in own.items():
        router.copy_(found[name])
