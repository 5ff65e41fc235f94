"""Greedy soup: add one model after the other to the average, and keep it only where validation data say so."""

from collections.abc import Mapping

from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._deltas import MergedModule
from fusionbench.methods._method import merge_method
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.tasks import Task


@merge_method(
    "greedy_soup",
    paper="arXiv:2203.05482",
    kind="whole",
    category="merge",
    version=1,
    needs=("validation",),
    compat={"official": {"strict": True}},
)
def greedy_soup(pool: Pool, tasks: Mapping[str, Task], context: Context, *, strict: bool = False) -> Fused:
    """Return the running average to which each model was added that did not make it worse (arXiv:2203.05482, Recipe 1).

    Args:
        pool: base and experts; the base gives only names and what is not fused.
        tasks: those whose validation split decides, by the mean of their primary values.
        context: of the run.
        strict: keep a model only where the value rises; the paper keeps it where the value does not fall, the authors'
            code only where it rises.

    Raises:
        ConfigError: where there are no tasks to decide on.
    """
    if not tasks:
        raise ConfigError("greedy_soup decides on validation data: it needs a suite, or experts that name their tasks.")
    models = MergedModule(pool, context.family, device=context.device)
    names = list(models.experts)
    alone = [_value(models, context, [row]) for row in range(len(names))]
    order = sorted(range(len(names)), key=lambda row: -alone[row])
    soup, best = [order[0]], alone[order[0]]
    trace = [f"{names[order[0]]} {best:.4f}"]
    for row in order[1:]:
        value = _value(models, context, [*soup, row])
        if value > best or (value == best and not strict):
            soup, best = [*soup, row], value
            trace.append(f"+ {names[row]} {value:.4f}")
    context.used("selected", split="validation", tasks=tuple(tasks))
    context.note(f"ingredients and their values on validation data: {', '.join(trace)}")
    return FusedWeights(average_of(models, soup), context.family, pool.reference)


def average_of(models: MergedModule, rows: list[int]) -> dict[str, Tensor]:
    """Return the mean of some experts' weights by canonical name."""
    means = {}
    for name in models.names:
        total = models.deltas[name][rows[0]].float()
        for row in rows[1:]:
            total = total + models.deltas[name][row].float()
        means[name] = (models.base[name] + (total / len(rows)).view(models.base[name].shape)).cpu()
    return means


def _value(models: MergedModule, context: Context, rows: list[int]) -> float:
    scores = context.evaluate(FusedWeights(average_of(models, rows), context.family, models.reference))
    return sum(scores.values()) / len(scores)
