"""Carry an experiment out: every row a run in a folder of its own, then the answer beside the printed tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, FusionBenchError
from fusionbench.experiments.answer import (
    UNSEEN,
    Judged,
    Line,
    Ranking,
    Value,
    judge,
    judged,
    printed_of,
    ranking,
    values_of,
)
from fusionbench.experiments.model import FIRST, Experiment, Point, Row, points, suite_of
from fusionbench.experiments.probes import transfer
from fusionbench.experiments.published import AVERAGE
from fusionbench.merge import Progress, silent
from fusionbench.records import Report
from fusionbench.report.analysis import Square, geometry
from fusionbench.run import resolve, run
from fusionbench.suites.load import load_suite
from fusionbench.sweep import run_all

Which = Literal["paper", "mini"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an experiment gave.

    Attributes:
        experiment: what was asked.
        which: on the papers' own suite, or on its offline stand-in, whose numbers are other numbers: only orders of
            rows can be compared there.
        profile: the shorter schedule that was run, if any.
        seed: of recipes and stand-in.
        lines: the rows that were run, in the table's order.
        failed: rows that gave no numbers, with the reason.
        ranking: how alike the orders of the rows are.
        claims: the papers' claims, with what came out here.
        matrix: of the kinds transfer and cosine.
    """

    experiment: Experiment
    which: Which
    profile: str | None
    seed: int
    lines: tuple[Line, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    ranking: Ranking | None = None
    claims: tuple[Judged, ...] = ()
    matrix: Square | None = None


def reproduce(
    experiment: Experiment,
    out: Path,
    *,
    which: Which = "paper",
    profile: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Answer:
    """Run an experiment and return its answer; runs that are finished are only read.

    Args:
        experiment: see `load_experiment`.
        out: folder of the runs.
        which: "paper" for the papers' suite (checkpoints and data of the hub), "mini" for the offline stand-in.
        profile: a shorter schedule of the experiment's; None is the papers'.
        seed: of the recipes and of the stand-in's build.
        progress: told what is being done.

    Raises:
        ConfigError: where the profile is not known.
        FusionBenchError: where the suite cannot be had, or no row could be run.
    """
    stand_in = which == "mini"
    suite = suite_of(experiment, stand_in=stand_in, seed=seed)
    if experiment.kind in ("transfer", "cosine"):
        return Answer(experiment, which, profile, seed, matrix=_matrix(experiment, suite, seed, out, progress))
    order = _order(suite, progress) if FIRST in experiment.vary else ()
    lines, failed = [], {}
    chosen = list(points(experiment, stand_in=stand_in, profile=profile, seed=seed, order=order))
    for point, report, note in _reports(chosen, out, progress, stand_in=stand_in):
        name = " ".join([point.row.label, *(f"{key}={value}" for key, value in point.values.items())])
        if isinstance(report, Report):
            lines.append(_line(experiment, point, report, note, stand_in=stand_in))
        else:
            failed[name] = report
    if not lines:
        raise ConfigError(f"No row of {experiment.name} could be run. The first reason: {next(iter(failed.values()))}")
    found = tuple(lines)
    order_of = None if experiment.vary else ranking(found)
    return Answer(experiment, which, profile, seed, found, failed, order_of, tuple(judged(experiment, found)))


def _order(suite: Mapping[str, Any], progress: Progress) -> Sequence[str]:
    resolved = load_suite(suite["name"], size=suite.get("size", "small"), seed=suite.get("seed", 0), progress=progress)
    return tuple(resolved.suite.pool.experts)


def _matrix(experiment: Experiment, suite: Mapping[str, Any], seed: int, out: Path, progress: Progress) -> Square:
    asked = Recipe.read({"suite": dict(suite), "method": "pretrained", "seed": seed}, experiment.name)
    if experiment.kind == "transfer":
        return transfer(asked, out, progress)
    return geometry(resolve(asked, progress).pool, progress).cosines()


def _reports(
    chosen: Sequence[Point], out: Path, progress: Progress, *, stand_in: bool
) -> Iterator[tuple[Point, Report | str, str]]:
    """Yield each point with its report, or the reason why there is none, and a note on what was selected."""
    for number, point in enumerate(chosen):
        if point.row.unavailable and not stand_in:
            yield point, point.row.unavailable, ""
            continue

        def labelled(what: str, done: int, total: int, label: str = f"{number + 1}/{len(chosen)} ") -> None:
            progress(label + what, done, total)

        try:
            changes, note = _selected(point, out, labelled)
            yield point, run(point.load(**changes), parent=out, progress=labelled).report, note
        except FusionBenchError as error:
            yield point, str(error), ""


def _selected(point: Point, out: Path, progress: Progress) -> tuple[dict[str, Any], str]:
    """Return the values that are best on the validation split, of the grids that the row names."""
    if not point.row.select:
        return {}, ""
    ((key, grid),) = point.row.select.items()
    recipes = [point.load(**{key: value, "tasks.split": "validation", "output.model": False}) for value in grid]
    best: tuple[float, Any] | None = None
    for value, outcome in zip(grid, run_all(recipes, out / "selection", progress=progress), strict=True):
        if outcome.result is None:
            raise outcome.error or FusionBenchError("A run of the selection gave no result.")
        average = outcome.result.report.primary_average
        if average is not None and (best is None or average.value > best[0]):
            best = (average.value, value)
    if best is None:
        raise ConfigError(f"{point.row.label}: the tasks have no common average to select by.")
    return {key: best[1]}, f"{key}={best[1]} selected on validation data"


def _line(experiment: Experiment, point: Point, report: Report, note: str, *, stand_in: bool) -> Line:
    values: Mapping[str, Value] = values_of(report)
    varied = {experiment.variant.get(key, key): _word(value) for key, value in point.values.items()}
    printed = printed_of(experiment, point.row, varied)
    if stand_in:
        # Its tasks are others, even where a name is the same: only averages stand side by side.
        printed = {name: value for name, value in printed.items() if name in (AVERAGE, UNSEEN)}
        note = note or ", ".join(f"{key}={value} here" for key, value in point.row.stand_in_params.items())
    verdicts = {} if stand_in else judge(experiment, point.row, values, printed)
    return Line(point.row.label, varied, values, printed, verdicts, note or _quoted(point.row))


def _word(value: Any) -> str:
    """Return a varied value as the tables write it: no corruption is "clean"."""
    return "clean" if value is None else str(value)


def _quoted(row: Row) -> str:
    return "the printed row is quoted from another paper" if row.pipeline == "quoted" else ""
