"""Fuse small models in memory, through the same check, plan and engine that the merge command runs."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fusionbench.parameters import check
from fusionbench.registry import methods
from fusionbench.weights.checks import fit
from fusionbench.weights.engine import run_plan
from fusionbench.weights.plan import Plan, build_plan
from fusionbench.weights.tensors import MemorySink, TensorSource

State = Mapping[str, Tensor]


def plan_for(
    method: str,
    base: State | None,
    experts: Mapping[str, State],
    parameters: Mapping[str, Any] | None = None,
    *,
    tower: str = "",
    config: Mapping[str, Any] | None = None,
    statistics: Mapping[str, State] | None = None,
    **options: Any,
) -> Plan:
    """The plan of a merge of models in memory; `options` are those of `build_plan`."""
    collected = {name: TensorSource(f"statistics/{name}", tensors) for name, tensors in (statistics or {}).items()}
    entry = methods[method]
    sources = {name: TensorSource(name, tensors, config) for name, tensors in experts.items()}
    origin = TensorSource("base", base, config) if base is not None else None
    found = fit(origin or next(iter(sources.values())), sources, tower=tower)
    values = check(method, entry.parameters, parameters or {})
    return build_plan(origin, sources, found, method=method, parameters=entry.parameters, values=values,
                      statistics=collected, **options)  # fmt: skip


def fuse(
    method: str,
    base: State | None,
    experts: Mapping[str, State],
    parameters: Mapping[str, Any] | None = None,
    *,
    run: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """The fused tensors by name.

    Args:
        method: a stream method's name.
        base: the pretrained state dict, or None.
        experts: state dicts by name.
        parameters: as a recipe gives them.
        run: `threads`, `memory`, `device` or `advance` for the engine.
        **options: for `plan_for`.
    """
    plan = plan_for(method, base, experts, parameters, **options)
    sink = MemorySink([step.output for step in plan])
    values = check(method, methods[method].parameters, parameters or {})
    run_plan(plan, methods[method], sink, values=values, **{"threads": 1, **(run or {})})
    return sink.weights
