"""Ensembles: every model answers, and the answers are combined after each model's own head."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._method import merge_method
from fusionbench.mixing import Fused
from fusionbench.mixing.ensemble import Ensemble
from fusionbench.parameters import Count, PerExpert, per_expert
from fusionbench.tasks import Task

Over = Literal["logits", "probabilities", "log_probabilities"]
SCALES: Mapping[Over, Callable[[Tensor], Tensor]] = {
    "logits": lambda logits: logits,
    "probabilities": lambda logits: logits.softmax(dim=-1),
    "log_probabilities": lambda logits: logits.log_softmax(dim=-1),
}


def average_outputs(outputs: Sequence[Tensor], weights: Sequence[float], over: Over) -> Tensor:
    """Return Σ wᵢ·f(ℓᵢ) with f the scale that `over` names.

    Args:
        outputs: logits of each model, `(examples, classes)`.
        weights: one a model.
        over: the scale on which outputs are added.
    """
    parts = [SCALES[over](logits) * weight for logits, weight in zip(outputs, weights, strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def largest_outputs(outputs: Sequence[Tensor], over: Over) -> Tensor:
    """Return the element-wise maximum over models of f(ℓᵢ); absent classes are −∞ in the logits."""
    return torch.stack([SCALES[over](logits) for logits in outputs]).amax(dim=0)


@merge_method(
    "simple_ensemble",
    paper="Sagi & Rokach 2018, doi:10.1002/widm.1249",
    kind="whole",
    category="ensemble",
    version=1,
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
    count = len(pool.experts)
    return Ensemble(
        pool.experts, context.family, pool.reference,
        lambda outputs: average_outputs(outputs, [1 / count] * count, over),
        about={"method": "simple_ensemble", "over": over}, resident=resident, device=context.device,
    )  # fmt: skip


@merge_method(
    "weighted_ensemble",
    paper="Sagi & Rokach 2018, doi:10.1002/widm.1249",
    kind="whole",
    category="ensemble",
    version=1,
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
            by the mean of the tasks' primary values on validation data.
        normalize: divide the weights by their sum.
        over: what is averaged; see `simple_ensemble`.
        trials: draws of the search.
        resident: hold all members in memory.

    Raises:
        ConfigError: where weights sum to zero, or are searched without tasks.
    """
    count = len(pool.experts)

    def made(factors: Sequence[float]) -> Ensemble:
        total = sum(factors)
        if normalize and abs(total) < 1e-12:
            raise ConfigError(f"method.weights sum to {total}: they cannot be normalised. Add normalize=false.")
        scaled = [factor / total for factor in factors] if normalize else list(factors)
        return Ensemble(
            pool.experts, context.family, pool.reference, lambda outputs: average_outputs(outputs, scaled, over),
            about={"method": "weighted_ensemble", "over": over, "weights": scaled}, resident=resident,
            device=context.device,
        )  # fmt: skip

    if weights is not None:
        return made(per_expert(weights, count))
    if not tasks:
        raise ConfigError("method.weights: there are no tasks to search them on; give one weight a member.")
    generator = torch.Generator().manual_seed(context.seed)
    draws = torch.rand(trials, count, generator=generator).clamp_min(1e-6).log().neg()
    candidates = [[1 / count] * count, *(draws / draws.sum(dim=1, keepdim=True)).tolist()]
    values = [_mean(context.evaluate(made(candidate))) for candidate in candidates]
    best = max(range(len(candidates)), key=values.__getitem__)
    context.used("selected", split="validation", tasks=tuple(tasks))
    context.note(f"weights {', '.join(f'{w:.3f}' for w in candidates[best])} were selected on validation data")
    return made(candidates[best])


@merge_method(
    "max_model", paper="Wu et al. 2019 (heterogeneous model reuse)", kind="whole", category="ensemble", version=1
)
def max_model(
    pool: Pool, tasks: Mapping[str, Task], context: Context, *, over: Over = "probabilities", resident: bool = True
) -> Fused:
    """Return the ensemble that predicts the class on which some member is surest.

    Args:
        pool: the experts are the members.
        tasks: not looked at.
        context: of the run.
        over: the scale on which members are compared; probabilities are on a common one, raw logits are not.
        resident: hold all members in memory.
    """
    return Ensemble(
        pool.experts, context.family, pool.reference, lambda outputs: largest_outputs(outputs, over),
        about={"method": "max_model", "over": over}, resident=resident, device=context.device,
    )  # fmt: skip


def _mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores)
