"""A method that merges for another: looked up, checked, and run on the same pool, whatever its kind."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fusionbench.config import MethodConfig
from fusionbench.errors import ConfigError
from fusionbench.merge import Pool, plan_of
from fusionbench.methods._context import Context
from fusionbench.methods._statistics import collect_all
from fusionbench.mixing import FusedWeights
from fusionbench.registry import methods
from fusionbench.signatures import arguments
from fusionbench.tasks import Task
from fusionbench.weights.aliases import written_once
from fusionbench.weights.engine import run_plan
from fusionbench.weights.tensors import LazyWeights, MemorySink


def inner_method(inner: Mapping[str, Any], owner: str) -> MethodConfig:
    """Return the method that a parameter `inner` names, with all its parameters.

    Raises:
        ConfigError: where it gives no merged weights.
    """
    method = MethodConfig.read(dict(inner))
    entry = methods[method.name]
    if entry.category != "merge" or entry.kind not in ("stream", "whole"):
        raise ConfigError(
            f"method.inner={method.name} cannot stand within {owner}: it gives no merged weights. "
            "Try inner=task_arithmetic or inner=adamerging."
        )
    return method


def fuse_inner(
    method: MethodConfig, pool: Pool, tasks: Mapping[str, Task], context: Context, owner: str
) -> FusedWeights:
    """Return what a method merges of a pool.

    Raises:
        ConfigError: where that is no single set of weights.
        FusionBenchError: where the method cannot run on this pool.
    """
    entry = methods[method.name]
    function = entry.load()
    if entry.kind == "whole":
        fused = function(pool, tasks, context, **arguments(function, method.params))
        if not isinstance(fused, FusedWeights):
            raise ConfigError(f"method.inner={method.name} gives more than one set of weights, which {owner} needs.")
        return fused
    collect = getattr(function, "collect", None)
    if collect is not None and not method.params.get("statistics"):
        collect_all(pool, tasks, context, collect, method=method.name, values=method.params)
        pool = replace(pool, statistics={name: _collected(context, name) for name in pool.experts})
    plan = plan_of(pool, method, seed=context.seed)
    sink = MemorySink([step.output for step in plan])
    once, both, _ = written_once(plan, sink)
    run_plan(once, entry, both, values=method.params, threads=1)
    tower = {name: tensor for name, tensor in sink.weights.items() if name.startswith(pool.tower)}
    return FusedWeights(tower, context.family, pool.reference, device=context.device)


def _collected(context: Context, expert: str) -> Any:
    found = context.load(f"statistics/{expert}")
    assert isinstance(found, LazyWeights)
    return found.source


def scoped(context: Context, name: str) -> Context:
    """Return the context with checkpoints and artefacts below a name, for a method that is run several times."""
    folder = context.loop.folder
    return replace(
        context,
        loop=replace(context.loop, folder=folder / name if folder else None),
        save=lambda key, tensors, text: context.save(f"{name}/{key}", tensors, text),
        load=lambda key: context.load(f"{name}/{key}"),
    )
