"""Greedy soup: add one model after the other to the average, and keep it only where validation data say so."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._deltas import MergedModule
from fusionbench.methods._method import merge_method
from fusionbench.methods._selection import Scores, lower_is_better, overall
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.tasks import Task


@merge_method(
    "greedy_soup",
    paper="arXiv:2203.05482",
    kind="whole",
    category="merge",
    version=2,
    needs=("validation",),
    compat={"official": {"strict": True}},
)
def greedy_soup(pool: Pool, tasks: Mapping[str, Task], context: Context, *, strict: bool = False) -> Fused:
    """Return the mean of the models that, added one by one, do not lower the validation score (arXiv:2203.05482).

    Args:
        pool: base and experts; the base gives only names and what is not fused.
        tasks: those whose validation split decides, by the mean of their primary values; where these are unlike, such
            as shares and degrees, by the mean of their quotients with the best expert's, turned where lower is better.
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
    scores = [_scores(models, context, [row]) for row in range(len(names))]
    against = _best(scores, tasks)
    alone = [overall(found, tasks, against) for found in scores]
    order = sorted(range(len(names)), key=lambda row: -alone[row])
    soup, best = [order[0]], alone[order[0]]
    trace = [f"{names[order[0]]} {best:.4f}"]
    for row in order[1:]:
        value = overall(_scores(models, context, [*soup, row]), tasks, against)
        if value > best or (value == best and not strict):
            soup, best = [*soup, row], value
            trace.append(f"+ {names[row]} {value:.4f}")
    context.used("selected", split="validation", tasks=tuple(tasks))
    context.note(f"ingredients and their values on validation data: {', '.join(trace)}")
    return FusedWeights(average_of(models, soup), context.family, pool.reference)


def average_of(models: MergedModule, rows: list[int]) -> dict[str, Tensor]:
    """Return the mean of some experts' weights by canonical name, and the BatchNorm statistics of these together."""
    means = {name: tensor.cpu() for name, tensor in models.mixed_statistics(rows).items()}
    for name in models.names:
        total = models.deltas[name][rows[0]].float()
        for row in rows[1:]:
            total = total + models.deltas[name][row].float()
        means[name] = (models.base[name] + (total / len(rows)).view(models.base[name].shape)).cpu()
    return models.under_all_names(means)


def _scores(models: MergedModule, context: Context, rows: list[int]) -> Scores:
    return context.evaluate(FusedWeights(average_of(models, rows), context.family, models.reference))


def _best(scores: Sequence[Scores], tasks: Mapping[str, Task]) -> Scores:
    """Return each task's best value."""
    return {name: (min if lower_is_better(tasks[name]) else max)(found[name] for found in scores) for name in scores[0]}
