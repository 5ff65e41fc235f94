"""Analyses that score models: each point is an ordinary run in a folder of its own, so that nothing is done twice."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, FusionBenchError
from fusionbench.merge import Progress, silent
from fusionbench.records import Remote, Report
from fusionbench.records.scores import FRACTION, info_of
from fusionbench.registry import suggestion
from fusionbench.report.analysis import Square
from fusionbench.suites.load import load_suite
from fusionbench.suites.model import Suite
from fusionbench.sweep import run_all

BASE = "pretrained"
"""The row of a transfer matrix that no expert made."""


def transfer(asked: Recipe, out: Path | Remote, progress: Progress = silent) -> Square:
    """Return the primary metric of the base and of each expert on each task of a suite (arXiv:2406.03280, tables 7–11).

    Args:
        asked: a recipe; its suite, seed and tasks count, its method does not.
        out: folder of the runs, one a model; those that are finished are only read.
        progress: told what is being done.

    Raises:
        FusionBenchError: where a run fails, with its reason.
    """
    (reports,) = transfer_reports([asked], out, progress)
    return transfer_square(asked, reports)


def transfer_reports(
    asked: Sequence[Recipe], out: Path | Remote, progress: Progress = silent
) -> list[dict[str, Report]]:
    """Return for each recipe the report of each model of its transfer matrix, the base first; see `transfer`.

    All runs are one list, so that a cluster is kept busy.

    Raises:
        FusionBenchError: where a run fails, with its reason.
    """
    recipes = [_transfer_recipes(each, progress) for each in asked]
    reports = iter(_reports([recipe for each in recipes for recipe in each.values()], out, progress))
    return [{name: next(reports) for name in each} for each in recipes]


def _transfer_recipes(asked: Recipe, progress: Progress) -> dict[str, Recipe]:
    suite = _suite_of(asked, progress)
    models: dict[str, Mapping[str, Any]] = {}
    if suite.pool.base is not None:
        models[BASE] = {"method": "pretrained"}
    for name, expert in suite.pool.experts.items():
        models[name] = {"method": "simple_average", "experts": {name: expert.model_dump(mode="json")}}
    return dict(zip(models, _changed(asked, list(models.values()), _tasks(asked, suite)), strict=True))


def transfer_square(asked: Recipe, reports: Mapping[str, Report]) -> Square:
    """Return the primary metric of each model (rows) on each task (columns)."""
    suite = _suite_of(asked, silent)
    tasks = _tasks(asked, suite)
    values = np.array([[_primary(report, task) for task in tasks] for report in reports.values()])
    title = f"{suite.name}: each model on each task"
    return Square(title, list(reports), tasks, values, 0.0, None, percent=_are_shares(list(reports.values())))


def _tasks(asked: Recipe, suite: Suite) -> list[str]:
    seen, unseen = asked.tasks.seen, asked.tasks.unseen
    return [*(suite.seen if seen is None else seen), *(suite.unseen if unseen is None else unseen)]


def connectivity(
    asked: Recipe, pair: tuple[str, str], out: Path | Remote, *, points: int = 11, progress: Progress = silent
) -> Square:
    """Return the primary metric along the straight line between two experts, on both their tasks.

    The rows are t = 0 … 1 in (1 − t)·θ_first + t·θ_second (linear mode connectivity, arXiv:1912.05671); a dip below
    both ends is a barrier.

    Args:
        asked: a recipe; its suite, seed and tasks count.
        pair: names of two experts.
        out: folder of the runs.
        points: of the line, both ends among them.
        progress: told what is being done.

    Raises:
        ConfigError: where an expert is not known, or there are less than two points.
        FusionBenchError: where a run fails.
    """
    suite = _suite_of(asked, progress)
    experts, tasks = _pair(suite, pair)
    if points < 2:
        raise ConfigError(f"points={points}: a line has two ends; ask for at least 2.")
    shares = np.linspace(0.0, 1.0, points)
    methods: list[Mapping[str, Any]] = [
        {
            "experts": experts,
            "method": {"name": "weighted_average", "weights": [float(1 - t), float(t)], "normalize": False},
        }
        for t in shares
    ]
    reports = _score(asked, methods, tasks, out, progress)
    values = np.array([[_primary(report, task) for task in tasks] for report in reports])
    title = f"{suite.name}: on the line from {pair[0]} (0) to {pair[1]} (1)"
    return Square(title, [f"{t:.2f}" for t in shares], tasks, values, 0.0, None, percent=_are_shares(reports))


def landscape(
    asked: Recipe,
    pair: tuple[str, str],
    out: Path | Remote,
    *,
    factors: Sequence[float] = (-1.0, -0.5, 0.0, 0.5, 1.0),
    progress: Progress = silent,
) -> Square:
    """Return the mean of two tasks' primary metrics at θ₀ + a·τ_first + b·τ_second, a by rows, b by columns.

    Args:
        asked: a recipe; its suite, seed and tasks count.
        pair: names of two experts.
        out: folder of the runs.
        factors: values of a and of b.
        progress: told what is being done.

    Raises:
        ConfigError: where an expert is not known.
        FusionBenchError: where a run fails.
    """
    suite = _suite_of(asked, progress)
    experts, tasks = _pair(suite, pair)
    methods: list[Mapping[str, Any]] = [
        {
            "experts": experts,
            "method": {"name": "task_arithmetic", "scale": 1.0, "weights": [float(a), float(b)]},
        }
        for a, b in product(factors, factors)
    ]
    reports = _score(asked, methods, tasks, out, progress)
    means = [float(np.mean([_primary(report, task) for task in tasks])) for report in reports]
    values = np.array(means).reshape(len(factors), len(factors))
    names = [f"{factor:g}" for factor in factors]
    title = f"{suite.name}: mean of {' and '.join(tasks)}; {pair[0]}'s factor by rows, {pair[1]}'s by columns"
    return Square(title, names, names, values, None, None, percent=_are_shares(reports))


def _suite_of(asked: Recipe, progress: Progress) -> Suite:
    if asked.suite is None:
        raise ConfigError("Say whose models and tasks: add suite=NAME, such as suite=mini/clip.")
    return load_suite(asked.suite, progress=progress).suite


def _pair(suite: Suite, pair: tuple[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Return the two experts as a recipe writes them, and their tasks."""
    known = suite.pool.experts
    for name in pair:
        if name not in known:
            raise ConfigError(f"The suite {suite.name} has no expert {name!r}. {suggestion(name, list(known))}")
    if pair[0] == pair[1]:
        raise ConfigError(f"between={pair[0]},{pair[1]}: name two different experts.")
    tasks = [task for name in pair if (task := suite.pool.task_of(name, suite.tasks.tasks)) is not None]
    if not tasks:
        raise ConfigError(f"Neither {pair[0]} nor {pair[1]} says which task it was trained on.")
    return {name: known[name].model_dump(mode="json") for name in pair}, list(dict.fromkeys(tasks))


def _score(
    asked: Recipe, changes: Sequence[Mapping[str, Any]], tasks: Sequence[str], out: Path | Remote, progress: Progress
) -> list[Report]:
    """Run the recipe with each change and return the reports, in order."""
    return _reports(_changed(asked, changes, tasks), out, progress)


def _changed(asked: Recipe, changes: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[Recipe]:
    """Return the recipe with each change, scored on some tasks, without a model that stays."""
    document = asked.dump()
    scored = {**document["tasks"], "seen": list(tasks), "unseen": []}
    output = {**document["output"], "model": False, "folder": None}
    whole = {**document, "tasks": scored, "output": output}
    return [Recipe.read({**whole, **change}, "The analysis") for change in changes]


def _reports(recipes: Sequence[Recipe], out: Path | Remote, progress: Progress) -> list[Report]:
    reports = []
    for outcome in run_all(recipes, out, progress=progress):
        if outcome.result is None:
            raise outcome.error or FusionBenchError("The run gave no result.")
        reports.append(outcome.result.report)
    return reports


def _are_shares(reports: Sequence[Report]) -> bool:
    """Tell whether all primary values are shares, which people read as percent; metres and degrees are none."""
    return all(
        info_of(each.metrics, score.primary).unit == FRACTION for each in reports for score in each.tasks.values()
    )


def _primary(report: Report, task: str) -> float:
    """Return a task's primary value, NaN where it was skipped."""
    if task not in report.tasks:
        return float("nan")
    value = next(iter(report.tasks[task].metrics.values())).value
    return float("nan") if value is None else value
