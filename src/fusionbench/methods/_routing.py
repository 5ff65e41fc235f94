"""MLPs whose experts are weighed by routers: how they are built of a pool, and how the routers learn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.families import Family
from fusionbench.families.base import HasTextToText
from fusionbench.merge import Pool
from fusionbench.methods._adaptation import AdaptSplit, Drawn, check_adaptable
from fusionbench.methods._context import Context
from fusionbench.mixing.mixed import MixedModel
from fusionbench.mixing.rebuild import Rebuilder, rebuild
from fusionbench.mixing.routed import ROUTER, Route
from fusionbench.mixing.sites import ModuleSite, Replacement, mlp_sites, oriented
from fusionbench.parameters import Range
from fusionbench.registry import methods
from fusionbench.tasks import Task
from fusionbench.training import State, Steps
from fusionbench.training.schedule import Schedule
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

Depth = Annotated[int, Range(0, 2)]
StepCount = Annotated[int, Range(0)]
ROUTERS = "routers"
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
    site: ModuleSite, base: Tensors, experts: Sequence[Tensors], *, depth: int, init: float, route: Route = "sample"
) -> Replacement:
    """Return an MLP with every expert's differences beside it, and a router that weighs each by `init` at first.

    Args:
        site: an MLP.
        base: its tensors.
        experts: the same of each expert.
        depth: of the router: 0, 1 or 2.
        init: of the router's last bias, and λ of what is no linear map.
        route: what has weights of its own: a sample, a token, or the batch.
    """
    first = next(iter(site.linears))
    width = oriented(base[f"{first}.weight"], site.linears[first]).shape[1]
    tensors = router_tensors(site, width, len(experts), depth=depth, init=init)
    maps = {f"{name}.{kind}": (name, kind) for name in site.linears for kind in ("weight", "bias")}
    for name, origin in base.items():
        if name not in maps:
            tensors[f"mlp.{name}"] = added(origin, [expert[name] for expert in experts], init=init)
            continue
        linear, kind = maps[name]
        tensors[f"mlp.{name}"] = origin
        turn = site.linears[linear] or kind == "bias"
        deltas = torch.stack([oriented(expert[name] - origin, turn) for expert in experts])
        tensors[f"mlp.{linear}.{'delta' if kind == 'weight' else 'shift'}"] = deltas
    settings = {"experts": len(experts), "width": width, "depth": depth, "route": route,
                "parts": ",".join(site.linears),
                "transposed": ",".join(name for name, last in site.linears.items() if not last)}  # fmt: skip
    return Replacement(tensors, "routed_mlp", settings)


def router_tensors(site: ModuleSite, width: int, experts: int, *, depth: int, init: float) -> dict[str, Tensor]:
    """Return a router's first tensors: weights N(0, 0.01²), hidden bias 0, last bias or free vector `init`."""
    generator = torch.Generator().manual_seed((site.seed + site.depth) % 2**63)
    if depth == 0:
        return {"router.free": torch.full((experts,), init)}
    tensors = {}
    if depth == 2:
        tensors["router.layers.0.weight"] = DEVIATION * torch.randn(width, width, generator=generator)
        tensors["router.layers.0.bias"] = torch.zeros(width)
    last = f"router.layers.{2 * (depth - 1)}"
    tensors[f"{last}.weight"] = DEVIATION * torch.randn(experts, width, generator=generator)
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
    tensors: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> None:
        # Routers learn in float32, so that all they multiply is kept in it.
        tensors[name] = tensor.float() if tensor.is_floating_point() else tensor

    rebuilder = Rebuilder(method, replace_mlp, mlp_sites, rest=added)
    made = rebuild(pool, rebuilder, values, keep, seed=context.seed)
    blueprint = made.blueprint(methods[method], values, pool)
    if blueprint is None:
        raise ConfigError(f"{method}: the family {context.family.name!r} has no MLP.")
    return MixedModel(tensors, blueprint, context.family, pool.reference, device=context.device)


@dataclass(frozen=True, slots=True)
class RouterTraining:
    """How routers learn on unlabelled inputs.

    Attributes:
        steps: how many.
        batch: inputs of each task a step.
        learning_rate: of Adam.
        schedule: of the rate.
        split: where inputs come from.
        checkpoint_every: steps between checkpoints.
        evaluate_every: steps between scores on validation data; 0 is never.
    """

    steps: int
    batch: int
    learning_rate: float
    schedule: Schedule
    split: AdaptSplit
    checkpoint_every: int
    evaluate_every: int

    def run(self, model: MixedModel, tasks: Mapping[str, Task], context: Context, name: str) -> None:
        """Minimise Σ over tasks of the mean entropy of predictions, in the routers' tensors alone.

        Raises:
            NotAdaptable: where a task has no objective without labels, before anything long.
            Interrupted: on Ctrl-C; the same command goes on from the last checkpoint.
        """
        predictors = {task: tasks[task].bind(model.module) for task in tasks}
        check_adaptable(tasks, predictors, self.split, context.device)
        masked = {task: model.for_task(tasks[task]) for task in tasks}
        trained = routers_of(model)
        model.module.requires_grad_(False)
        for parameter in trained.values():
            parameter.requires_grad_(True)

        def batches(start: int) -> Any:
            drawn = {
                name: task.batches(self.split, size=self.batch, seed=context.seed, start=start * self.batch,
                                   labels=False) for name, task in tasks.items()
            }  # fmt: skip
            while True:
                yield {name: next(of_task) for name, of_task in drawn.items()}

        def step(state: State, drawn: Drawn) -> dict[str, Tensor]:
            total = torch.zeros((), device=context.device)
            for name, one in drawn.items():
                loss = tasks[name].objective(masked[name], one)
                state.backward(loss)
                total += loss.detach()
            return {"loss": total}

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
        context.used("adapted", split=self.split, tasks=tuple(tasks), count=self.steps * self.batch)


def routers_of(model: MixedModel) -> dict[str, torch.nn.Parameter]:
    """Return the tensors of a model's routers by name."""
    return {name: parameter for name, parameter in model.module.named_parameters() if ROUTER in name}


@torch.no_grad()
def put_routers(model: MixedModel, path: Path) -> None:
    """Fill a model's routers with those that an earlier run saved.

    Raises:
        ConfigError: where they are missing, or of another form.
    """
    found = LazyWeights(open_source(path))
    own = routers_of(model)
    if {name: tuple(found[name].shape) for name in found} != {name: tuple(own[name].shape) for name in own}:
        raise ConfigError(f"{path} holds routers of another model. Leave method.routers out to adapt anew.")
    for name, parameter in own.items():
        parameter.copy_(found[name])
