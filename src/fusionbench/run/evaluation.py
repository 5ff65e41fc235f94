"""Score a fused model on every task of a setting, each split read once, finished tasks never again."""

import logging
from collections.abc import Mapping
from pathlib import Path

from fusionbench.config import SuiteConfig, TasksConfig
from fusionbench.merge import Progress, silent
from fusionbench.mixing import Fused, Skipped
from fusionbench.mixing.build import fused_weights
from fusionbench.records import MethodRef, MetricInfo, ModelFacts, Report, Score, SuiteRef, TaskScore, Variant
from fusionbench.registry import methods
from fusionbench.run.rows import read_rows, write_rows
from fusionbench.run.setting import Setting, setting_of_suite
from fusionbench.run.whole import Left, describe_left
from fusionbench.suites.tasks import open_tasks
from fusionbench.tasks import Task, evaluate
from fusionbench.tasks.base import Rows
from fusionbench.tasks.base import Score as TaskResult
from fusionbench.weights.checks import fit
from fusionbench.weights.headers import Source
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

logger = logging.getLogger(__name__)


class Scored:
    """What an evaluation found: scores and metrics by name, and why tasks were skipped."""

    def __init__(self) -> None:
        self.scores: dict[str, TaskScore] = {}
        self.metrics: dict[str, MetricInfo] = {}
        self.skipped: dict[str, str] = {}

    def add(self, task: Task, scores: Mapping[str, TaskResult], *, seen: bool) -> None:
        """Keep a task's scores, its primary metric first."""
        plain = {name: Score(value=s.value, n=s.n, stderr=s.stderr) for name, s in scores.items()}
        self.scores[task.name] = TaskScore.of(plain, seen=seen)
        self.metrics |= {m.name: MetricInfo(unit=m.unit, better=m.better) for m in task.metrics}


def build_tasks(setting: Setting) -> list[Task]:
    """Return the setting's tasks, with their heads from the base, in order.

    Raises:
        MissingData: where data, a split or a column is not there.
    """
    if setting.suite is None:
        return []
    return list(open_tasks(setting.suite.suite, setting.tasks, base=setting.pool.reference).values())


def score(setting: Setting, fused: Fused, folder: Path | None = None, progress: Progress = silent) -> Scored:
    """Return the scores of a fused model; with a folder, each task's rows are kept there and read where they exist."""
    found = Scored()
    asked = setting.recipe.tasks
    tasks = build_tasks(setting)
    for done, task in enumerate(tasks):
        progress(f"evaluating {task.name}", done, len(tasks))
        seen = task.name in setting.seen
        kept = folder / f"{task.name}.parquet" if folder is not None else None
        if kept is not None and kept.is_file():
            rows = read_rows(kept)
            found.add(task, scores_of(task, rows), seen=seen)
            continue
        try:
            result = evaluate(fused, task, asked.split, limit=asked.limit, keep_rows=kept is not None)
        except Skipped as reason:
            found.skipped[task.name] = str(reason)
            continue
        if kept is not None:
            write_rows(kept, dict(result.rows))
        found.add(task, result.scores, seen=seen)
    progress("evaluating", len(tasks), len(tasks))
    return found


def scores_of(task: Task, rows: Rows) -> dict[str, TaskResult]:
    """Return a task's scores by metric, computed from its rows."""
    count = len(next(iter(rows.values())))
    found = {}
    for metric in task.metrics:
        value, stderr = metric.compute(rows)
        found[metric.name] = TaskResult(value, count, stderr)
    return found


def report_of(setting: Setting, scored: Scored, model: ModelFacts | None, left: Left) -> Report:
    """Return the report of a run's scores."""
    recipe = setting.recipe
    suite = setting.suite
    variant = Variant.build(scored.scores, scored.metrics, individual=setting.individual(), model=model)
    return Report.build(
        identity=setting.identity(),
        suite=SuiteRef(name=suite.suite.name, size=suite.size, seed=suite.seed, build=suite.build) if suite else None,
        seed=recipe.seed,
        method=MethodRef(
            name=recipe.method.name,
            version=methods[recipe.method.name].version,
            params=recipe.method.params,
            compat=recipe.method.compat,
        ),
        variants=[variant],
        metrics=scored.metrics,
        inputs=setting.pool.fingerprints(),
        skipped=scored.skipped,
        **describe_left(left),
        notes=(*setting.notes, *left.notes),
    )


def evaluate_model(model: str, suite: SuiteConfig, tasks: TasksConfig, progress: Progress = silent) -> Report:
    """Return the report of one model, a folder, a file or a hub id, on a suite's tasks.

    Raises:
        FusionBenchError: where the model or the suite is not there, or they do not fit.
    """
    setting = setting_of_suite(suite, tasks, progress)
    source = open_source(model)
    fit(setting.pool.reference, {model: source}, tower=setting.pool.tower)
    scored = score(setting, fused_weights(LazyWeights(source), setting.pool), progress=progress)
    report = report_of(setting, scored, facts_of(source), Left(notes=[f"the model evaluated is {model}"]))
    return report.model_copy(update={"inputs": {"model": source.fingerprint()}})


def facts_of(source: Source, kind: str = "weights", copies: int = 1) -> ModelFacts:
    """Return kind and size of a model of the form of `source`, or of so many of them."""
    parameters = sum(spec.size for spec in source.specs.values())
    size = sum(spec.nbytes for spec in source.specs.values())
    return ModelFacts(kind=kind, parameters=copies * parameters, bytes=copies * size)
