"""TALL masks: of one multi-task vector, each task switches on the entries in which it outweighs the others."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._inner import InnerMerge, inner_merge, prepared
from fusionbench.methods._masked import MaskedModels, Masks, own_statistics, pack, plan_for, read_merged
from fusionbench.methods._method import merge_method
from fusionbench.methods._selection import preferred
from fusionbench.methods.consensus import SUM, Threshold, tall_masks
from fusionbench.mixing import Fused
from fusionbench.parameters import Inner, PerExpert, Scale
from fusionbench.tasks import Task
from fusionbench.weights.plan import Plan, Site

SEARCHED = (0.2, 0.3, 0.4, 0.5, 0.6)
"""λₜ that the authors try for each task on validation data."""
Chunks = Iterator[tuple[Site, Tensor, Sequence[Tensor]]]


@merge_method(
    "tall_mask",
    paper="arXiv:2405.07813",
    kind="whole",
    category="merge",
    version=1,
    needs=("validation",),
)
def tall_mask(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    threshold: PerExpert[Threshold] | None = None,
    scale: Scale = 1.0,
    inner: Inner = SUM,
) -> Fused:
    """Return one model a task, θ₀ + α·mₜ⊙τ with mₜ = 1[|τₜ| > λₜ·|τ − τₜ|]: shared weights and a bit mask each.

    Args:
        pool: base and experts; a task's model is that of the expert which was trained on it.
        tasks: those on whose validation split thresholds are chosen.
        context: of the run.
        threshold: λₜ, one or one an expert; without it, each task takes the best of .2, .3, .4, .5 and .6 by its
            primary value on validation data, the smallest of equal ones.
        scale: α, the factor on the shared weights' change.
        inner: the method that makes τ of the task vectors; the authors take their sum, or TIES with
            `{name: ties, combine: sum}`.

    Raises:
        ConfigError: where thresholds are to be chosen without tasks, or the inner method does not work on task vectors.

    Others: the paper compares with ≥, the authors' code with >, so that entries nobody moved are in no mask; we follow
    the code. fusion_bench has λ = .6 and no search; its task-arithmetic form compares the base with τₜ, a mistake.
    """
    values: dict[str, Any] = {"threshold": 0.4 if threshold is None else threshold, "scale": scale, "inner": inner}
    plan = plan_for(pool, "tall_mask", values, context.seed)
    merge = prepared(
        inner_merge(inner, "tall_mask", on_deltas=True),
        lambda: _chunks(plan),
        {step.output.name: step.parameters for step in plan if step.action == "merge"},
    )

    def made(chosen: Mapping[str, float] | None) -> MaskedModels:
        masks = _masks(plan, pool, merge, chosen)
        return MaskedModels(masks, pool, context.family, method="tall_mask", device=context.device)

    models = made(None) if threshold is not None else made(_searched(pool, tasks, context, made))
    context.note(f"storage beside the base: {models.masks.bytes:,} bytes")
    return models


def _chunks(plan: Plan) -> Chunks:
    return ((step.site, base, experts) for step, base, experts in read_merged(plan))


def _masks(plan: Plan, pool: Pool, merge: InnerMerge, chosen: Mapping[str, float] | None) -> Masks:
    """Return shared vector and masks; thresholds are those of the parameters, or one an expert where they are given."""
    unified: dict[str, Tensor] = {}
    bits: dict[str, dict[str, Tensor]] = {name: {} for name in pool.experts}
    for step, base, experts in read_merged(plan):
        name = step.output.name
        deltas = [expert - base for expert in experts]
        merged = merge(torch.zeros_like(base), deltas, step.site)
        thresholds = step.parameters["threshold"] if chosen is None else tuple(chosen.values())
        for expert, mask in zip(pool.experts, tall_masks(deltas, merged, thresholds), strict=True):
            bits[expert][name] = pack(mask)
        unified[name] = merged * step.parameters["scale"]
    return Masks(unified, bits, dict.fromkeys(pool.experts, 1.0), own_statistics(plan, list(pool.experts)))


def _searched(pool: Pool, tasks: Mapping[str, Task], context: Context, made: Any) -> dict[str, float]:
    """Return, for each expert, the threshold that is best on its task's validation split."""
    lacking = [expert for expert in pool.experts if pool.tasks.get(expert) not in tasks]
    if lacking:
        raise ConfigError(
            f"method.threshold: there are no validation data to choose it on for {', '.join(lacking)}. Add a suite "
            "that has their tasks, or give threshold=0.4, one number or one an expert."
        )
    found = [preferred(context.evaluate(made(dict.fromkeys(pool.experts, value))), tasks) for value in SEARCHED]
    chosen = {}
    for expert in pool.experts:
        task = str(pool.tasks[expert])
        chosen[expert] = max(zip(SEARCHED, found, strict=True), key=lambda pair: pair[1][task])[0]
    context.used("selected", split="validation", tasks=tuple(tasks))
    context.note("thresholds chosen on validation data: " + ", ".join(f"{e} {v}" for e, v in chosen.items()))
    return chosen
