"""ZipIt: merge the units that answer alike, within a model as well as between models."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import floor
from typing import Annotated

import torch
from torch import Tensor

from fusionbench.errors import ConfigError, MissingPart
from fusionbench.families import Family, HasParts, Permutation
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._matching import Moments, assigned, collect_moments
from fusionbench.methods._method import merge_method
from fusionbench.methods._permutations import (
    Tensors,
    as_stored,
    check_groups,
    count_of,
    first_batch,
    groups_of,
    mapped,
    read_model,
    recalibrated,
    unlabelled,
)
from fusionbench.methods._statistics import CollectSplit, SharedModule
from fusionbench.mixing import Fused, FusedWeights, PerTask
from fusionbench.parameters import Count, Range, Share
from fusionbench.tasks import Task


@merge_method(
    "zipit",
    paper="arXiv:2305.03053",
    kind="whole",
    category="merge",
    version=1,
    base="unused",
    parts=("permutations",),
    needs=("unlabelled", "one_architecture"),
)
def zipit(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    alpha: Annotated[float, Range(0, 1)] = 0.3,
    beta: Share = 0.125,
    blocks: Count | None = None,
    split: CollectSplit = "train",
    examples: Count = 256,
) -> Fused:
    """Return W* = Σₖ Mₖ·Wₖ·Uₖ, in which the units that correlate most were merged pair by pair (arXiv:2305.03053).

    Args:
        pool: the experts are merged; the base, or the first expert, gives what is not fused.
        tasks: whose inputs correlations are taken over.
        context: of the run.
        alpha: a; the similarity of merged units is multiplied by it, so that few merge again; 0 forbids units of one
            model to be in a merged unit twice.
        beta: b; share of the merges that may be within one model.
        blocks: how many of the network's blocks are zipped, from the first on; what follows stays each model's own
            (partial zip), and each task gets a model of the shared front and its tail. None zips all.
        split: where inputs come from.
        examples: inputs of each task.

    Raises:
        MissingPart: where the family names no permutations.
        IncompatibleModels: where a permutation changes what a model computes.
        ConfigError: where there is no task to take inputs from, or not so many blocks.

    Others: the authors' code adds 10⁻⁵ to the count of merged units, which shrinks weights a little; counts are exact
    here. Attention heads, blocks of units that answer together, are matched one to one between models.
    """
    shared = SharedModule(pool, context.family, context.device)
    groups = groups_of(pool, context.family, shared, "zipit")
    front = set(shared.inside) if blocks is None else front_of(shared, context.family, blocks)
    models = [read_model(shared, name) for name in pool.experts]
    check_groups(shared, context.family, models[0], groups, first_batch(tasks, context, split, "zipit"), context.seed)
    inputs = unlabelled(tasks, context, split=split, examples=examples)
    moments = collect_moments(shared, context.family, models, groups, inputs)
    context.used("adapted", split=split, tasks=tuple(tasks), count=count_of(tasks, split, examples))
    zipped = {}
    for group in (group for group in groups if all(name in front for name, _ in group.produced)):
        by_head = any(models[0][name].shape[axis] != group.units for name, axis in group.produced)
        zipped[group.name] = (
            one_to_one(moments[group.name], group.units, len(models))
            if by_head
            else greedy(moments[group.name].correlation(), group.units, len(models), alpha, beta)
        )
    merged = zip_models(models, [group for group in groups if group.name in zipped], zipped)

    def finished(model: Tensors) -> Tensors:
        inputs = unlabelled(tasks, context, split=split, examples=examples)
        return as_stored(recalibrated(shared, context.family, model, inputs), pool)

    if blocks is None:
        return FusedWeights(finished(merged), context.family, pool.reference, device=context.device)
    own = {
        expert: finished(made)
        for expert, made in zip(pool.experts, with_tails(merged, models, front, groups, zipped), strict=True)
    }
    context.note(_kept_apart(groups, zipped, front))
    made = {task: own[expert] for expert, task in pool.tasks.items() if task is not None}
    return PerTask(made, context.family, pool.reference, method="zipit", device=context.device)


def front_of(shared: SharedModule, family: Family, blocks: int) -> set[str]:
    """Return the canonical names of what a module computes up to its block of that number, in the order of its tensors.

    Raises:
        MissingPart: where the family names no blocks.
        ConfigError: where there are not more blocks than that.
    """
    if not isinstance(family, HasParts):
        raise MissingPart(family.name, "blocks", ("zipit",))
    named = family.blocks(shared.module)
    if blocks >= len(named):
        raise ConfigError(f"method.blocks={blocks}: the network has {len(named)} blocks; leave it out to zip them all.")
    order = list(shared.module.state_dict())
    last = max(place for place, name in enumerate(order) if name.startswith(f"{named[blocks - 1]}."))
    early = set(order[: last + 1])
    return {canonical for canonical, name in shared.inside.items() if name in early}


def with_tails(
    merged: Tensors, models: Sequence[Tensors], front: set[str], groups: Sequence[Permutation],
    zipped: Mapping[str, Tensor],
) -> Iterator[Tensors]:  # fmt: skip
    """Yield each model's own: the merged front, and its own tail, which reads the merged units as it read its own."""
    for k, model in enumerate(models):
        own = {name: merged[name] if name in front else tensor for name, tensor in model.items()}
        for group in (group for group in groups if group.name in zipped):
            unmerge = zipped[group.name][k * group.units : (k + 1) * group.units]
            for name, axis in group.read:
                if name not in front:
                    own[name] = mapped(own[name], axis, unmerge.T, group.runs.get(name, 1))
        yield own


def _kept_apart(groups: Sequence[Permutation], zipped: Mapping[str, Tensor], front: set[str]) -> str:
    """Return how many groups were zipped, and which are cut by the end of the front and thus averaged as they stand."""
    cut = [g.name for g in groups if g.name not in zipped and any(name in front for name, _ in g.produced)]
    averaged = f"; {', '.join(cut)} go on behind the front and were averaged in their order" if cut else ""
    return f"{len(zipped)} of {len(groups)} groups of units were zipped{averaged}"


def greedy(correlation: Tensor, units: int, models: int, alpha: float, beta: float) -> Tensor:
    """Return which of all models' units make each unit of the result: `(models·units, units)`, a single 1 a row.

    The pair that correlates most is merged until `units` are left; what is merged has the smaller of both
    similarities, times alpha; merges within a model stop at ⌊removals / models · beta⌋ for each model; from
    then on a merged unit takes no more of that model either, unless nothing else is left, as with three models and more
    may be.

    Args:
        correlation: `(models·units, models·units)`, of the models' units one after the other.
        units: how many are left.
        models: how many there are.
        alpha: factor on the similarity of merged units; 0 lets no merged unit hold two of one model by a later merge.
        beta: share of merges within a model.

    Raises:
        ConfigError: where the rules leave no pair to merge.
    """
    similarity = correlation.double().clone().fill_diagonal_(-torch.inf)
    member = torch.eye(models * units, dtype=torch.float64)
    origin = [{row // units} for row in range(models * units)]
    # With two models the budgets alone leave a pair until the end.
    unspent = similarity.clone() if models > 2 and alpha else similarity
    budget = [floor(Fraction(repr(float(beta))) * (models - 1) * units / models)] * models
    for model in range(models):
        _forbid_within(similarity, origin, model, budget)
    largest, partner = similarity.max(dim=1)
    for _ in range((models - 1) * units):
        i = int(largest.argmax())
        if torch.isinf(largest[i]) and unspent is not similarity:
            similarity.copy_(unspent)
            for model in range(models):
                _forbid_within(similarity, origin, model, budget)
            largest, partner = similarity.max(dim=1)
            i = int(largest.argmax())
        if torch.isinf(largest[i]):
            raise ConfigError("zipit: alpha and beta leave no pair of units to merge; raise one of them.")
        i, j = sorted((i, int(partner[i])))
        within = origin[i] == origin[j] and len(origin[i]) == 1
        origin[i], origin[j] = origin[i] | origin[j], set()
        if unspent is not similarity:
            _join(unspent, i, j, alpha, origin)
        joined = _join(similarity, i, j, alpha, origin)
        member[:, i] += member[:, j]
        member[:, j] = 0
        if within:
            (model,) = origin[i]
            budget[model] -= 1
            _forbid_within(similarity, origin, model, budget)
        stale = (partner == i) | (partner == j) | (largest < joined) | within
        stale[[i, j]] = True
        largest[stale], partner[stale] = similarity[stale].max(dim=1)
    return member[:, member.any(dim=0)]


def _join(similarity: Tensor, i: int, j: int, alpha: float, origin: Sequence[set[int]]) -> Tensor:
    """Put unit j into unit i, whose similarities become the smaller of both times alpha; return them."""
    joined = torch.minimum(similarity[i], similarity[j]) * (alpha or 1.0)
    if not alpha:
        joined[[bool(origin[i] & other) for other in origin]] = -torch.inf
    joined[[i, j]] = -torch.inf
    similarity[i], similarity[:, i] = joined, joined
    similarity[j], similarity[:, j] = -torch.inf, -torch.inf
    return joined


def _forbid_within(similarity: Tensor, origin: Sequence[set[int]], model: int, budget: Sequence[int]) -> None:
    """Take back all pairs within a model whose budget is spent."""
    if budget[model] <= 0:
        own = torch.tensor([units == {model} for units in origin])
        similarity[own[:, None] & own[None, :]] = -torch.inf


def one_to_one(moments: Moments, units: int, models: int) -> Tensor:
    """Return the matching of every model's units with the first's, in the form of `greedy`'s."""
    correlation, member = moments.correlation(), torch.zeros(models * units, units, dtype=torch.float64)
    for model in range(models):
        order = assigned(correlation[:units, model * units : (model + 1) * units])
        member[model * units + order, torch.arange(units)] = 1
    return member


def zip_models(models: Sequence[Tensors], groups: Sequence[Permutation], zipped: Mapping[str, Tensor]) -> Tensors:
    """Return Σₖ Mₖ·Wₖ·Uₖ: what makes units is averaged over those merged, what reads them is added up.

    Tensors that make no units of any group are averaged over the models.
    """
    count = len(models)
    merged: Tensors = {}
    makes = {name for group in groups for name, _ in group.produced}
    for k, model in enumerate(models):
        made = {name: tensor if name in makes else tensor / count for name, tensor in model.items()}
        for group in groups:
            member = zipped[group.name]
            unmerge = member[k * group.units : (k + 1) * group.units]
            merge = (unmerge / member.sum(dim=0)).T
            for name, axis in group.produced:
                made[name] = mapped(made[name], axis, merge, group.runs.get(name, 1))
            for name, axis in group.read:
                made[name] = mapped(made[name], axis, unmerge.T, group.runs.get(name, 1))
        merged = {name: merged[name] + tensor if k else tensor for name, tensor in made.items()}
    return merged
