"""λ search: merge with one factor after the other, and keep what validation data like best."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from fusionbench.config import MethodConfig
from fusionbench.errors import ConfigError
from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._inner_model import fuse_inner, inner_method, scoped
from fusionbench.methods._method import merge_method
from fusionbench.methods._selection import Scores, overall, preferred
from fusionbench.mixing import Fused, FusedWeights, PerTask
from fusionbench.parameters import Count, Inner
from fusionbench.tasks import Task

TASK_ARITHMETIC: Inner = {"name": "task_arithmetic"}
GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@merge_method(
    "scale_search",
    paper="arXiv:2212.04089",
    kind="whole",
    category="merge",
    version=2,
    needs=("validation",),
)
def scale_search(
    pool: Pool,
    tasks: Mapping[str, Task],
    context: Context,
    *,
    inner: Inner = TASK_ARITHMETIC,
    scales: Sequence[float] = GRID,
    by: Literal["model", "task", "expert"] = "model",
    rounds: Count = 1,
) -> Fused:
    """Return what a method merges with the factor λ that is best on validation data (arXiv:2212.04089, §2).

    Args:
        pool: base and experts.
        tasks: those whose validation split decides, by the mean of their primary values; where these are unlike, such
            as shares and degrees, by the mean of their quotients with the first scale's, turned where lower is better.
            The test split is not read.
        context: of the run.
        inner: any merging method with a `scale`; its other parameters stay, and the factor is searched.
        scales: what is tried, in order; of equal values the first is kept. The papers' grids: 0.1 to 1 for sums of task
            vectors, 0.8 to 2.5 for TIES with means.
        by: whether one factor is chosen for the model; for each task its own, which gives one model a task; or for each
            expert its own, one expert after the other, from the best common one (the method needs `weights`).
        rounds: how often all experts are gone through, where each has its own.

    Raises:
        ConfigError: where there are no tasks to decide on, or the inner method has nothing to search.
    """
    method = inner_method(inner, "scale_search")
    if not tasks:
        raise ConfigError(
            "scale_search decides on validation data: it needs a suite, or experts that name their tasks."
        )
    for name in ("scale", *(("weights",) if by == "expert" else ())):
        if name not in method.params:
            raise ConfigError(f"method.inner={method.name} has no {name} to search. Try inner=task_arithmetic or ties.")
    if not scales or not all(isinstance(scale, int | float) for scale in scales):
        raise ConfigError(f"method.scales={list(scales)}: expected numbers, such as [0.1, 0.2, 0.3].")
    more = rounds * len(pool.experts) * (len(scales) - 1) if by == "expert" else 0
    search = _Search(method, pool, tasks, context, len(scales) + more)
    found = {scale: search.scores({"scale": scale}) for scale in scales}
    context.used("selected", split="validation", tasks=tuple(tasks))
    value = {scale: search.value(scores, found[scales[0]]) for scale, scores in found.items()}
    context.note("mean values on validation data: " + ", ".join(f"{s:g}: {v:.4f}" for s, v in value.items()))
    best = max(value, key=value.__getitem__)
    if by == "task":
        return _per_task(search, {s: preferred(v, tasks) for s, v in found.items()}, best, pool, context)
    if by == "expert":
        return search.merge(_each_expert(search, list(pool.experts), scales, best, found, rounds))
    context.note(f"scale={best:g} was selected on validation data")
    return search.merge({"scale": best})


class _Search:
    """Merges and scores by parameters; statistics that the method collects are collected once."""

    def __init__(
        self, method: MethodConfig, pool: Pool, tasks: Mapping[str, Task], context: Context, total: int
    ) -> None:
        self._method, self._pool, self._tasks, self._context = method, pool, tasks, context
        self._tried, self._total = 0, total
        self.note = context.note

    def merge(self, changed: Mapping[str, Any]) -> FusedWeights:
        method = MethodConfig.read({**self._method.model_dump(), **changed})
        name = ",".join(f"{key}={value}" for key, value in changed.items())
        # What learns keeps its checkpoints by name; what only collects may share them.
        learns = "statistics" not in method.params
        context = scoped(self._context, name) if learns else self._context
        return fuse_inner(method, self._pool, self._tasks, replace(context, note=_nothing), "scale_search")

    def value(self, scores: Scores, against: Scores) -> float:
        return overall(scores, self._tasks, against)

    def scores(self, changed: Mapping[str, Any]) -> Scores:
        if self._context.loop.progress is not None:
            self._context.loop.progress("searching scales", self._tried, self._total)
        self._tried += 1
        return self._context.evaluate(self.merge(changed))


def _per_task(search: _Search, found: Mapping[float, Scores], common: float, pool: Pool, context: Context) -> PerTask:
    """Return one model a task, each with the factor that is best on that task alone; larger scores are better."""
    best = {task: max(found, key=lambda scale: found[scale][task]) for task in next(iter(found.values()))}
    context.note("selected on validation data: " + ", ".join(f"{task} {scale:g}" for task, scale in best.items()))

    def made(scale: float) -> Callable[[], Mapping[str, Any]]:
        return lambda: search.merge({"scale": scale}).weights

    shared = search.merge({"scale": common}).weights
    weights = {task: made(scale) for task, scale in best.items()}
    return PerTask(weights, context.family, pool.reference, shared=shared, method="scale_search", device=context.device)


def _each_expert(
    search: _Search, experts: Sequence[str], scales: Sequence[float], common: float, found: Mapping[float, Scores],
    rounds: int,
) -> dict[str, Any]:  # fmt: skip
    """Return parameters with a factor for each expert, found one after the other from a common one."""
    against = found[scales[0]]
    chosen, best = dict.fromkeys(experts, common), search.value(found[common], against)
    for _ in range(rounds):
        for expert in experts:
            for scale in scales:
                if scale == chosen[expert]:
                    continue
                tried = search.value(search.scores(_factors({**chosen, expert: scale})), against)
                if tried > best:
                    chosen, best = {**chosen, expert: scale}, tried
    search.note("selected on validation data: " + ", ".join(f"{name} {scale:g}" for name, scale in chosen.items()))
    return _factors(chosen)


def _factors(chosen: Mapping[str, float]) -> dict[str, Any]:
    return {"scale": 1.0, "weights": list(chosen.values())}


def _nothing(_: str) -> None:
    """Keep what a candidate would tell the report out of it."""
