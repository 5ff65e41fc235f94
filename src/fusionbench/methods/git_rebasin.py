"""Git Re-Basin: bring the units of every model into one order, then average."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from fusionbench.families import Batch, Permutation
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._matching import collect_moments, match_activations, match_weights, total_similarity
from fusionbench.methods._method import merge_method
from fusionbench.methods._permutations import (
    Tensors,
    as_stored,
    check_groups,
    check_unchanged,
    count_of,
    first_batch,
    groups_of,
    permuted,
    read_model,
    recalibrated,
    unlabelled,
)
from fusionbench.methods._statistics import CollectSplit, SharedModule
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.parameters import Count, PerExpert, Positive, per_expert
from fusionbench.tasks import Task

Align = Literal["first", "mean"]
ROUNDS = 100
"""Rounds over the models, at most, until the mean of the others asks none to change."""


@merge_method(
    "git_rebasin",
    paper="arXiv:2209.04836",
    kind="whole",
    category="merge",
    version=1,
    base="unused",
    parts=("permutations",),
    needs=("unlabelled", "one_architecture"),
)
def git_rebasin(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    match: Literal["weights", "activations"] = "weights",
    align: Align = "first",
    weights: PerExpert[Positive] = 1.0,
    sweeps: Count = 100,
    restarts: Count = 1,
    split: CollectSplit = "train",
    examples: Count = 256,
) -> Fused:
    """Return Σ wᵢ·πᵢ(θᵢ) / Σ wᵢ, each model's units in the order in which they are most like the first's.

    For models of different initialisations; no base is needed. The result is not merged before it is seen, on a few
    inputs in float64, that neither random orders nor those that were found change what a model computes.

    Args:
        pool: the experts are merged; the base, or the first expert, gives what is not fused.
        tasks: whose inputs the self-check sees.
        context: of the run.
        match: by the weights around each unit, which needs no data; or by activations on the tasks' inputs.
        align: to what several models are aligned: the first; or, round by round, the mean of the others until nothing
            changes (Algorithm 3 of the paper), by weights only.
        weights: one a model, divided by their sum.
        sweeps: over all groups of units, at most, in weight matching.
        restarts: random orders of visiting the groups that are tried in weight matching; the best is taken.
        split: where inputs come from, for activations and for statistics of batch normalisation.
        examples: inputs of each task.

    Raises:
        MissingPart: where the family names no permutations.
        IncompatibleModels: where a permutation changes what a model computes.
        ConfigError: where there is no task to take inputs from.
    """
    shared = SharedModule(pool, context.family, context.device)
    groups = groups_of(pool, context.family, shared, "git_rebasin")
    models = [read_model(shared, name) for name in pool.experts]
    probe = first_batch(tasks, context, split, "git_rebasin")
    check_groups(shared, context.family, models[0], groups, probe, context.seed)
    if match == "activations":
        inputs = unlabelled(tasks, context, split=split, examples=examples)
        found = _by_activations(shared, models, groups, context, inputs)
        context.used("adapted", split=split, tasks=tuple(tasks), count=count_of(tasks, split, examples))
    else:
        found = _aligned(models, groups, align, context.seed, sweeps, restarts)
    for before, after in zip(models, found, strict=True):
        check_unchanged(shared, context.family, before, after, probe)
    context.note(_gains(list(pool.experts), models, found, groups))
    merged = weighted_mean(found, per_expert(weights, len(found)))
    inputs = unlabelled(tasks, context, split=split, examples=examples)
    merged = recalibrated(shared, context.family, merged, inputs)
    return FusedWeights(as_stored(merged, pool), context.family, pool.reference, device=context.device)


def _by_activations(
    shared: SharedModule,
    models: Sequence[Tensors],
    groups: Sequence[Permutation],
    context: Context,
    batches: Iterator[Batch],
) -> list[Tensors]:
    """Return the models in the orders in which their units answer as the first's do."""
    moments = collect_moments(shared, context.family, models, groups, batches)
    orders = [match_activations(moments, groups, number) for number in range(1, len(models))]
    return [models[0], *(permuted(m, groups, o) for m, o in zip(models[1:], orders, strict=True))]


def _gains(
    names: Sequence[str], models: Sequence[Tensors], found: Sequence[Tensors], groups: Sequence[Permutation]
) -> str:
    """Return by how much each model is more like the first than before."""
    gains = [
        f"{name} {total_similarity(found[0], after, groups) - total_similarity(models[0], before, groups):.4g}"
        for name, after, before in zip(names, found, models, strict=True)
    ]
    return "gain in Σ⟨A, π(B)⟩ over the units' tensors: " + ", ".join(gains[1:])


def _aligned(
    models: Sequence[Tensors], groups: Sequence[Permutation], align: Align, seed: int, sweeps: int, restarts: int
) -> list[Tensors]:
    random = np.random.default_rng(seed)
    found = list(models)

    def best(target: Tensors, model: Tensors) -> Tensors:
        tried = [
            permuted(model, groups, match_weights(target, model, groups, random=random, sweeps=sweeps))
            for _ in range(restarts)
        ]
        return max(tried, key=lambda candidate: total_similarity(target, candidate, groups))

    if align == "first":
        return [found[0], *(best(found[0], model) for model in found[1:])]
    for _ in range(ROUNDS):
        moved = False
        for number in random.permutation(len(found)) if len(found) > 1 else ():
            others = [model for other, model in enumerate(found) if other != number]
            target = weighted_mean(others, (1.0,) * len(others))
            turned = best(target, found[number])
            gain = total_similarity(target, turned, groups) - total_similarity(target, found[number], groups)
            if gain > 1e-9 * abs(total_similarity(target, turned, groups)):
                found[number], moved = turned, True
        if not moved:
            break
    return found


def weighted_mean(models: Sequence[Tensors], weights: Sequence[float]) -> Tensors:
    """Return Σ wᵢ·θᵢ / Σ wᵢ, tensor by tensor."""
    total = sum(weights)
    merged = {name: tensor * (weights[0] / total) for name, tensor in models[0].items()}
    for model, weight in zip(models[1:], weights[1:], strict=True):
        merged = {name: tensor + model[name] * (weight / total) for name, tensor in merged.items()}
    return merged
