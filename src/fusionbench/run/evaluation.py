"""Score a fused model on every task of a setting, each split read once, finished tasks never again."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fusionbench.config import RuntimeConfig, SuiteConfig, TasksConfig
from fusionbench.errors import ConfigError
from fusionbench.merge import Progress, silent
from fusionbench.mixing import Fused, Measured, Skipped
from fusionbench.mixing.mixed import MixedModel
from fusionbench.mixing.variants import Variants
from fusionbench.records import MethodRef, MetricInfo, ModelFacts, Report, Score, SuiteRef, TaskScore, Variant
from fusionbench.registry import methods
from fusionbench.run.divided import Asked, make_rows
from fusionbench.run.folder import MODEL, REPORT, TASKS, State, begin, locked, state_of
from fusionbench.run.opening import Opened, open_fused
from fusionbench.run.rows import read_rows, write_rows
from fusionbench.run.setting import Setting, setting_of_suite
from fusionbench.run.unbroken import rows_in_parts
from fusionbench.run.whole import Left, describe_left
from fusionbench.suites.tasks import open_tasks
from fusionbench.tasks import Task, evaluate
from fusionbench.tasks.base import Score as TaskResult
from fusionbench.tasks.evaluation import check_readable, scores_of
from fusionbench.training import ALONE, Processes, joined
from fusionbench.weights.devices import device_named

PARTS = ".parts"
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
    """Return the setting's tasks, with their heads from the base, in order; what they are scored on can be read.

    Raises:
        MissingData: where data, a split or a column is not there.
        ConfigError: where labels, or those of a head, are others than the task's.
    """
    if setting.suite is None:
        return []
    tasks = list(open_tasks(setting.suite.suite, setting.tasks, base=setting.pool.reference).values())
    check_readable(tasks, setting.recipe.tasks.split, limit=setting.recipe.tasks.limit)
    return tasks


def score(
    setting: Setting,
    tasks: Sequence[Task],
    fused: Fused,
    folder: Path | None = None,
    progress: Progress = silent,
    processes: Processes = ALONE,
) -> Scored:
    """Return the scores of a fused model; with a folder, each task's rows are kept there and read where they exist.

    Several processes divide each task's examples; the main one keeps the rows.
    """
    found = Scored()
    asked = setting.recipe.tasks
    for done, task in enumerate(tasks):
        progress(f"evaluating {task.name}", done, len(tasks))
        seen = task.name in setting.seen
        kept = folder / f"{task.name}.parquet" if folder is not None else None
        scores = processes.from_main(partial(_kept_scores, task, kept)) if kept is not None else None
        if scores is not None:
            found.add(task, scores, seen=seen)
            continue
        try:
            found.add(task, _new_scores(fused, task, asked, kept, processes), seen=seen)
        except Skipped as reason:
            found.skipped[task.name] = str(reason)
    progress("evaluating", len(tasks), len(tasks))
    return found


def _new_scores(
    fused: Fused, task: Task, asked: TasksConfig, kept: Path | None, processes: Processes
) -> dict[str, TaskResult]:
    """Return a task's scores; its rows are kept in a file if one is named, of a long task part by part until then."""
    if kept is None or processes.count > 1:
        result = evaluate(fused, task, asked.split, limit=asked.limit, keep_rows=kept is not None, processes=processes)
        rows, scores = result.rows, result.scores
    else:
        rows = rows_in_parts(fused.for_task(task), task, asked.split, kept.with_suffix(PARTS), limit=asked.limit)
        scores = scores_of(task, rows)
    if kept is not None and processes.is_main:
        write_rows(kept, dict(rows))
        shutil.rmtree(kept.with_suffix(PARTS), ignore_errors=True)
    return scores


def _kept_scores(task: Task, file: Path) -> dict[str, TaskResult] | None:
    """Return a task's scores from the rows of an earlier attempt; None where there are none, or they are damaged."""
    if not file.is_file():
        return None
    try:
        return scores_of(task, read_rows(file))
    except (ValueError, KeyError, StopIteration, IndexError, OSError) as error:
        logger.warning("%s is damaged and is made again: %s", file, error)
        return None


class Row(NamedTuple):
    """One model of a run: what tells it from the others (None where there are none), its scores, kind and size."""

    label: str | None
    scored: Scored
    model: ModelFacts | None


def score_all(
    setting: Setting,
    tasks: Sequence[Task],
    fused: Fused,
    folder: Path | None = None,
    progress: Progress = silent,
    processes: Processes = ALONE,
) -> list[Row]:
    """Return the scores of a fused model, or of each of its variants, whose rows are kept in folders of their own."""
    if not isinstance(fused, Variants):
        return [Row(None, score(setting, tasks, fused, folder, progress, processes), facts_of(fused))]
    rows = []
    for label, model in fused.models.items():
        place = folder / label if folder is not None else None
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        rows.append(Row(label, score(setting, tasks, model, place, progress, processes), facts_of(model)))
    return rows


def report_of(setting: Setting, rows: Sequence[Row], left: Left) -> Report:
    """Return the report of a run's scores; what is skipped is the first row's."""
    recipe = setting.recipe
    suite = setting.suite
    scored = rows[0].scored
    variants = [_variant(setting, row) for row in rows]
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
        variants=variants,
        metrics=scored.metrics,
        inputs=setting.inputs(),
        skipped=scored.skipped,
        **_data_used(setting, left),
        notes=(*setting.notes, *left.notes),
    )


def _data_used(setting: Setting, left: Left) -> dict[str, Any]:
    """Return what the report says of the data that a method looked at, a corruption of them included."""
    tasks = setting.recipe.tasks
    if tasks.corruption is None:
        return describe_left(left)
    change = {"corruption": f"{tasks.corruption}, severity {tasks.severity}"}
    uses = describe_left(left).items()
    return {key: use.model_copy(update=change) if use and use.split != "train" else use for key, use in uses}


def _variant(setting: Setting, row: Row) -> Variant:
    scores = row.scored.scores
    alone = {
        task: setting.recorded[task][score.primary]
        for task, score in scores.items()
        if score.primary in setting.recorded.get(task, {})
    }
    return Variant.build(scores, row.scored.metrics, individual=alone or None, label=row.label, model=row.model)


def evaluate_model(
    model: str,
    suite: SuiteConfig,
    tasks: TasksConfig,
    progress: Progress = silent,
    *,
    runtime: RuntimeConfig | None = None,
    out: Path | None = None,
    preference: Sequence[float] | None = None,
) -> Report:
    """Return the report of one model, a folder, a file or a hub id, on a suite's tasks.

    Its identity is that of the model and of what it was scored on; its method is the one that the model says it was
    made by, else "model".

    Args:
        model: what is scored.
        suite: whose tasks.
        tasks: which of them, and which examples.
        progress: told what is being done.
        runtime: a launcher divides the examples of each task over its processes, which changes no number.
        out: folder that keeps the report and the rows; None keeps none, but with a launcher `runs/evaluated/<8 hex>`.
        preference: of a model that a preference weighs, the one that it is scored for; None is equal weights.

    Raises:
        FusionBenchError: where the model or the suite is not there, or they do not fit.
        OutputError: where the folder holds something else.
    """
    processes = joined()
    with processes.united():
        setting = processes.main_first(lambda: setting_of_suite(suite, tasks, progress))
        asked = Asked(model, suite, tasks, runtime or setting.recipe.runtime, preference)
        return _evaluated(asked, setting, out, processes, progress)


def _evaluated(asked: Asked, setting: Setting, out: Path | None, processes: Processes, progress: Progress) -> Report:
    """Return the report of `evaluate_model`; of several processes, all divide the examples and the main one writes."""
    how = asked.runtime
    if how.launcher is not None and processes.count > 1:
        raise ConfigError(
            f"runtime.launcher={how.launcher.name} starts processes, and {processes.count} were started already. Leave "
            "one of the two out."
        )
    opened = open_fused(asked.model, setting.pool, device_named(how.device), preference=asked.preference)
    inputs = setting.inputs_of_scoring() | {"model": opened.fingerprint}
    method = made_by(opened)
    if asked.preference is not None:
        inputs["preference"] = ",".join(map(str, asked.preference))
        method = method.model_copy(update={"params": {**method.params, "preference": list(asked.preference)}})
    found = {"inputs": inputs, "identity": setting.identity(inputs), "method": method}

    def scored(tasks: Sequence[Task], folder: Path | None) -> Report:
        rows = score_all(setting, tasks, opened.fused, folder, progress, processes)
        return report_of(setting, rows, Left(notes=[f"the model evaluated is {asked.model}"])).model_copy(update=found)

    if out is None and how.launcher is None:
        return scored(build_tasks(setting), None)
    identity = setting.identity(inputs)
    place = out or Path("runs") / "evaluated" / identity.removeprefix("sha256:")[:8]
    with locked(place) if processes.is_main else nullcontext():
        if processes.from_main(lambda: state_of(place, identity, force=None)) is State.finished:
            return processes.from_main(lambda: Report.load(place))
        tasks = build_tasks(setting)
        if processes.is_main:
            begin(place, setting.recipe, identity)
        if how.launcher is not None:
            make_rows(asked, how.launcher, tasks, place, progress)
        report = scored(tasks, place / TASKS)
        if processes.is_main:
            report.save(place)
    return report


def made_by(model: Opened) -> MethodRef:
    """Return the method that a model was made by: as the report of its run, its header or its own file says."""
    folder = model.folder
    try:
        if folder is not None and folder.name == MODEL and (folder.parent / REPORT).is_file():
            return Report.load(folder.parent).method
        header = json.loads(model.metadata.get("fusionbench", "{}"))
        params = dict(header["recipe"]["method"])
        name, compat = params.pop("name"), params.pop("compat", None)
        return MethodRef(name=name, version=header["versions"][name], params=params, compat=compat)
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError):
        return model.method or MethodRef(name="model")


def facts_of(fused: Fused) -> ModelFacts | None:
    """Return kind and size of a fused model, where it says them."""
    if not isinstance(fused, Measured):
        return None
    learned = fused.trainable if isinstance(fused, MixedModel) else 0
    return ModelFacts(kind=fused.kind, parameters=fused.parameters, trainable=learned, bytes=fused.bytes)
