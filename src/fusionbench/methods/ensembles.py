"""Ensembles: every model answers, and the answers are combined after each model's own head."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from fusionbench.errors import ConfigError, NotAdaptable
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._method import merge_method
from fusionbench.methods._selection import overall
from fusionbench.mixing import Fused, Skipped
from fusionbench.mixing.ensemble import Combine, Ensemble
from fusionbench.mixing.members import Member, members_of
from fusionbench.parameters import Count, PerExpert, per_expert
from fusionbench.tasks import Task

Over = Literal["logits", "probabilities", "log_probabilities"]
Labels = Literal["own", "all"]
SCALES: Mapping[Over, Callable[[Tensor, int], Tensor]] = {
    "logits": lambda logits, _: logits,
    "probabilities": lambda logits, classes: logits.softmax(dim=classes),
    "log_probabilities": lambda logits, classes: logits.log_softmax(dim=classes),
}


def average_outputs(outputs: Sequence[Tensor], weights: Sequence[float], over: Over, classes: int = -1) -> Tensor:
    """Return Σ wᵢ·f(ℓᵢ) with f the scale that `over` names.

    Args:
        outputs: logits of each model, `(examples, …, classes)`, or `(examples, classes, …)` where `classes` is 1.
        weights: one a model.
        over: the scale on which outputs are added.
        classes: dimension of the classes.
    """
    parts = [SCALES[over](logits, classes) * weight for logits, weight in zip(outputs, weights, strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def largest_outputs(outputs: Sequence[Tensor], over: Over, classes: int = -1) -> Tensor:
    """Return the element-wise maximum over models of f(ℓᵢ).

    A class that a model does not know has the logit −∞; one that none knows gets the least number there is.
    """
    largest = torch.stack([SCALES[over](logits, classes) for logits in outputs]).amax(dim=0)
    return largest.clamp_min(torch.finfo(largest.dtype).min)


def as_logits(combined: Tensor, over: Over) -> Tensor:
    """Return what was combined on a scale as logits, so that a loss or an entropy of it means what it should."""
    return combined.clamp_min(torch.finfo(combined.dtype).tiny).log() if over == "probabilities" else combined


def classes_of(task: Task, output: Tensor) -> int | None:
    """Return the dimension of an output's classes; None where it is no distribution, as depths and normals are none.

    Args:
        task: whose head made the output.
        output: class scores `(examples, …, classes)`, or maps `(examples, channels, h, w)`.
    """
    if output.ndim != 4:
        return -1
    try:
        task.objective(lambda _: output, {})
    except NotAdaptable:
        return None
    return 1


@merge_method(
    "simple_ensemble",
    paper="Sagi & Rokach 2018, doi:10.1002/widm.1249",
    kind="whole",
    category="ensemble",
    version=1,
    base="unused",
)
def simple_ensemble(
    pool: Pool, tasks: Mapping[str, Task], context: Context, *, over: Over = "logits", resident: bool = True
) -> Fused:
    """Return the ensemble whose output is the mean of its members' outputs.

    Args:
        pool: the experts are the members.
        tasks: not looked at.
        context: of the run.
        over: what is averaged: logits, probabilities (the calibrated choice where members differ in temperature), or
            log-probabilities, which rank classes as the mean of logits does.
        resident: hold all members in memory, or load one after the other for each batch.

    Others: fusion_bench averages whatever tensor a module returns; of CLIP's towers that is features before projection.
    """
    return Ensemble(
        _members(pool, context),
        weighted(dict.fromkeys(pool.experts, 1.0), over, normalize=True),
        about={"method": "simple_ensemble", "over": over},
        resident=resident,
        device=context.device,
    )


@merge_method(
    "weighted_ensemble",
    paper="Sagi & Rokach 2018, doi:10.1002/widm.1249",
    kind="whole",
    category="ensemble",
    version=1,
    base="unused",
    needs=("validation",),
)
def weighted_ensemble(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    weights: PerExpert[float] | None = None,
    normalize: bool = True,
    over: Over = "logits",
    trials: Count = 32,
    resident: bool = True,
) -> Fused:
    """Return the ensemble whose output is the weighted mean of its members' outputs.

    Args:
        pool: the experts are the members.
        tasks: those on whose validation split weights are searched.
        context: of the run.
        weights: one a member; without them, the best of `trials` draws from the simplex and of equal weights is taken,
            by the tasks' primary values on validation data: their mean, or where they are no shares the mean of the
            quotients with those of equal weights.
        normalize: divide the weights by their sum.
        over: what is averaged; see `simple_ensemble`.
        trials: draws of the search.
        resident: hold all members in memory.

    Raises:
        ConfigError: where weights sum to zero, or are searched without tasks.
    """
    ensemble = Ensemble(
        _members(pool, context), weighted(dict.fromkeys(pool.experts, 1.0), over, normalize=True),
        about={"method": "weighted_ensemble", "over": over}, resident=resident, device=context.device,
    )  # fmt: skip

    def made(factors: Sequence[float]) -> Ensemble:
        scaled = _scaled(factors, normalize=normalize)
        combine = weighted(dict(zip(pool.experts, scaled, strict=True)), over, normalize=normalize)
        about = {"method": "weighted_ensemble", "over": over, "weights": scaled, "normalize": normalize}
        return ensemble.combined(combine, about)

    if weights is not None:
        return made(per_expert(weights, len(pool.experts)))
    if not tasks:
        raise ConfigError("method.weights: there are no tasks to search them on; give one weight a member.")
    candidates = _candidates(len(pool.experts), trials, context.seed)
    with ensemble.recalling():
        scores = [context.evaluate(made(candidate)) for candidate in candidates]
    values = [overall(found, tasks, scores[0]) for found in scores]
    best = max(range(len(candidates)), key=values.__getitem__)
    context.used("selected", split="validation", tasks=tuple(tasks))
    context.note(f"weights {', '.join(f'{w:.3f}' for w in candidates[best])} were selected on validation data")
    return made(candidates[best])


def _members(pool: Pool, context: Context) -> list[Member]:
    """Return a pool's experts as members, and tell the report which are of another architecture."""
    members = members_of(pool, context.family)
    for member in members:
        if not member.alike:
            context.note(f"{member.name} is of another architecture and answers the tasks that it has a head for")
    return members


def _scaled(factors: Sequence[float], *, normalize: bool) -> list[float]:
    """Return weights, divided by their sum where that is asked for.

    Raises:
        ConfigError: where they sum to zero.
    """
    total = sum(factors)
    if normalize and abs(total) < 1e-12:
        raise ConfigError(f"method.weights sum to {total}: they cannot be normalised. Add normalize=false.")
    return [factor / total for factor in factors] if normalize else list(factors)


def _candidates(count: int, trials: int, seed: int) -> list[list[float]]:
    """Return equal weights, and draws from the uniform distribution on the simplex."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(trials, count, generator=generator).clamp_min(1e-6).log().neg()
    return [[1 / count] * count, *(draws / draws.sum(dim=1, keepdim=True)).tolist()]


@merge_method(
    "max_model",
    paper="Wu et al. 2019 (heterogeneous model reuse)",
    kind="whole",
    category="ensemble",
    version=2,
    base="unused",
)
def max_model(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    over: Over = "probabilities",
    labels: Labels = "own",
    resident: bool = True,
) -> Fused:
    """Return the ensemble that predicts the class to which any of its members gives the highest probability.

    Args:
        pool: the experts are the members.
        tasks: of the suite; their class names say which classes each member knows.
        context: of the run.
        over: the scale on which members are compared; probabilities are on a common one, raw logits are not.
        labels: which classes a member is asked for: its own, those that its own task names too, as the method is
            defined (all, where its task is not known); or all.
        resident: hold all members in memory, or load one after the other for each batch.
    """
    known = {
        expert: frozenset(names)
        for expert, task in pool.tasks.items()
        if labels == "own" and task is not None and task in tasks and (names := getattr(tasks[task], "class_names", ()))
    }
    about = {"method": "max_model", "over": over, "known": {expert: sorted(names) for expert, names in known.items()}}
    return Ensemble(
        _members(pool, context), largest(known, over), about=about, resident=resident, device=context.device
    )


def largest(known: Mapping[str, Collection[str]], over: Over) -> Combine:
    """Return the largest of outputs, each member asked for the classes that it knows; one without such, for all.

    Args:
        known: names of the classes that a member knows, by member.
        over: the scale on which outputs are compared.

    Raises:
        Skipped: when it is called on outputs that are no class scores, or on a task of which no member knows a class.
    """

    def combine(task: Task, outputs: Mapping[str, Tensor]) -> Tensor:
        classes = classes_of(task, next(iter(outputs.values())))
        if classes is None:
            raise Skipped(f"{task.name}: its outputs are no class scores, and the largest of them means nothing.")
        return as_logits(largest_outputs(_known_scores(task, outputs, known), over, classes), over)

    return combine


def _known_scores(task: Task, outputs: Mapping[str, Tensor], known: Mapping[str, Collection[str]]) -> list[Tensor]:
    """Return the logits of the members that know a class of a task, −∞ where they do not know one.

    Raises:
        Skipped: where no member knows any.
    """
    names: Sequence[str] = getattr(task, "class_names", ())
    if not names:
        return list(outputs.values())
    found = []
    for member, logits in outputs.items():
        held = torch.tensor([name in known.get(member, names) for name in names], device=logits.device)
        if bool(held.all()):
            found.append(logits)
        elif bool(held.any()):
            across = held.view(-1, 1, 1) if logits.ndim == 4 else held
            found.append(logits.masked_fill(~across, -torch.inf))
    if not found:
        raise Skipped(f"{task.name}: no member was trained on any of its classes. With method.labels=all they answer.")
    return found


def weighted(weights: Mapping[str, float], over: Over, *, normalize: bool) -> Combine:
    """Return the weighted sum of outputs; the weights of members that do not answer a task go to those that do.

    Raises:
        Skipped: when it is called where weights that are to be normalised sum to 0.
    """

    def combine(task: Task, outputs: Mapping[str, Tensor]) -> Tensor:
        chosen = [weights[member] for member in outputs]
        if normalize:
            total = sum(chosen)
            if abs(total) < 1e-12:
                raise Skipped(f"{task.name}: the weights of the members that have a head for it sum to {total:g}.")
            chosen = [weight / total for weight in chosen]
        classes = classes_of(task, next(iter(outputs.values())))
        scale: Over = "logits" if classes is None else over
        return as_logits(average_outputs(list(outputs.values()), chosen, scale, classes or -1), scale)

    return combine
