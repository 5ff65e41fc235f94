"""Carry an experiment out: every row a run in a folder of its own, then the answer beside the printed tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fusionbench.config import Recipe, RuntimeConfig
from fusionbench.errors import ConfigError, FusionBenchError
from fusionbench.experiments.answer import Line, Ranking, Value, judge, rankings, values_of
from fusionbench.experiments.claims import Judged, judged
from fusionbench.experiments.elsewhere import lines_elsewhere
from fusionbench.experiments.model import Experiment, Point, Printed, Row, check_profile, points, suite_of
from fusionbench.experiments.printed import UNSEEN, cosines_beside, misprints_of, printed_of
from fusionbench.experiments.probes import BASE, transfer_reports, transfer_square
from fusionbench.experiments.published import AVERAGE
from fusionbench.experiments.seeds import over_seeds
from fusionbench.experiments.selection import Selected, select
from fusionbench.merge import Progress, silent
from fusionbench.records import Remote, Report, local_of
from fusionbench.report.analysis import Square, geometry
from fusionbench.run import resolve
from fusionbench.sweep import run_all

Which = Literal["paper", "mini"]
UNJUDGED: Mapping[str, str] = {
    "quoted": "the printed row is quoted from another paper",
    "retrained": "the papers' checkpoints of this row are not published",
}
"""Why the cells of a row get no verdict, by its pipeline."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an experiment gave.

    Attributes:
        experiment: what was asked.
        which: on the papers' own suite, or on its offline stand-in, whose numbers are other numbers: only orders of
            rows can be compared there.
        profile: the shorter schedule that was run, if any.
        seeds: of recipes and stand-ins; each value is the mean over them.
        lines: the rows that were run, in the table's order.
        failed: rows that gave no numbers, with the reason.
        rankings: how alike the orders of the rows are.
        claims: the papers' claims, with what came out here.
        matrix: of the kinds transfer and cosine.
        remark: on the whole, above the table.
    """

    experiment: Experiment
    which: Which
    profile: str | None
    seeds: tuple[int, ...]
    lines: tuple[Line, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    rankings: tuple[Ranking, ...] = ()
    claims: tuple[Judged, ...] = ()
    matrix: Square | None = None
    remark: str = ""


def reproduce(
    experiment: Experiment,
    out: Path | Remote,
    *,
    which: Which = "paper",
    profile: str | None = None,
    seeds: Sequence[int] = (0,),
    runtime: RuntimeConfig | None = None,
    progress: Progress = silent,
) -> Answer:
    """Run an experiment and return its answer; runs that are finished are only read.

    Args:
        experiment: see `load_experiment`.
        out: folder of the runs.
        which: "paper" for the papers' suite (checkpoints and data of the hub), "mini" for the offline stand-in.
        profile: a shorter schedule of the experiment's; None is the papers'.
        seeds: of the recipes and of the stand-in's build; of several the answer has means, with standard errors over
            the seeds.
        runtime: of every run; its launcher does them, all selections in one list and then all rows of all seeds in
            another.
        progress: told what is being done.

    Raises:
        ConfigError: where the profile is not known, or no seed or one seed twice is given.
        FusionBenchError: where the suite cannot be had, or no row could be run.
    """
    check_profile(experiment, profile)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds={','.join(map(str, seeds))}: give one seed, or several that differ.")
    blank = Answer(experiment, which, profile, tuple(seeds))
    if experiment.kind in ("transfer", "cosine"):
        return _of_matrix(blank, out, runtime, progress)
    found: dict[tuple[str, str], _Found] = {}
    alone: dict[tuple[int, str], Report] = {}
    for seed, point, report, note in _reports(blank, out, runtime, progress):
        each = found.setdefault((point.row.label, str(point.values)), _Found(point))
        if isinstance(report, Report):
            if point.row.label == experiment.relative_to:
                alone[seed, str(point.values)] = report
            each.values.append(values_of(report, alone.get((seed, str(point.values)))))
            each.notes[seed] = note
        else:
            each.failed[seed] = report
    lines = tuple(_line(blank, each) for each in found.values() if each.values)
    failed = {each.name(seed, len(seeds)): reason for each in found.values() for seed, reason in each.failed.items()}
    if not lines:
        raise ConfigError(f"No row of {experiment.name} could be run. The first reason: {next(iter(failed.values()))}")
    orders = () if experiment.vary else rankings(experiment, lines, stand_in=which == "mini")
    elsewhere = lines_elsewhere(experiment, local_of(out), which, profile, seeds)
    claims = judged(experiment, lines, same_tasks=which == "paper", elsewhere=elsewhere)
    return replace(blank, lines=lines, failed=failed, rankings=orders, claims=tuple(claims))


@dataclass(frozen=True, slots=True)
class _Found:
    """What one point of an experiment gave at each seed."""

    point: Point
    values: list[dict[str, Value]] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def name(self, seed: int, seeds: int) -> str:
        said = [self.point.row.label, *(f"{key}={value}" for key, value in self.point.values.items())]
        return " ".join([*said, *([f"seed={seed}"] if seeds > 1 else [])])

    def remarks(self) -> list[str]:
        """Return what is to be said of the runs: the same words once, others with their seed."""
        said = set(self.notes.values())
        told = [note for note in said if note] if len(said) == 1 else [f"seed {s}: {n}" for s, n in self.notes.items()]
        return [*told, *([f"only seeds {', '.join(map(str, self.notes))} ran"] if self.failed else [])]


def _reports(
    blank: Answer, out: Path | Remote, runtime: RuntimeConfig | None, progress: Progress
) -> Iterator[tuple[int, Point, Report | str, str]]:
    """Yield each point with its seed and report, or the reason why there is none, and a note on what was selected."""
    stand_in = blank.which == "mini"
    chosen = [
        (seed, point)
        for seed in blank.seeds
        for point in points(blank.experiment, stand_in=stand_in, profile=blank.profile, seed=seed)
    ]
    common = {} if runtime is None else {"runtime": runtime.model_dump(mode="json")}
    possible = [point for _, point in chosen if not point.row.missing(stand_in=stand_in)]
    selected = iter(select(possible, common, out, progress))
    ready = [
        (why, "") if (why := point.row.missing(stand_in=stand_in)) else _ready(point, next(selected), common)
        for _, point in chosen
    ]
    outcomes = run_all([recipe for recipe, _ in ready if isinstance(recipe, Recipe)], out, progress=progress)
    for (seed, point), (recipe, note) in zip(chosen, ready, strict=True):
        if isinstance(recipe, str):
            yield seed, point, recipe, ""
            continue
        outcome = next(outcomes)
        yield seed, point, outcome.result.report if outcome.result else str(outcome.error), note


def _ready(point: Point, selected: Selected | FusionBenchError, common: Mapping[str, Any]) -> tuple[Recipe | str, str]:
    """Return a point's recipe with what was selected, and a note on it; or the reason why it cannot be run."""
    if isinstance(selected, FusionBenchError):
        return str(selected), ""
    try:
        return point.load(**common, **selected.changes), selected.note
    except FusionBenchError as error:
        return str(error), ""


def of_matrix(experiment: Experiment, *, stand_in: bool, seed: int, runtime: RuntimeConfig | None = None) -> Recipe:
    """Return the recipe whose suite gives the models and tasks of an experiment of the kind transfer or cosine."""
    suite = suite_of(experiment, stand_in=stand_in, seed=seed)
    common = {} if runtime is None else {"runtime": runtime.model_dump(mode="json")}
    return Recipe.read({"suite": suite, "method": "pretrained", "seed": seed, **common}, experiment.name)


def _of_matrix(blank: Answer, out: Path | Remote, runtime: RuntimeConfig | None, progress: Progress) -> Answer:
    """Return the answer of an experiment whose result is a matrix: the mean over the seeds."""
    experiment, stand_in = blank.experiment, blank.which == "mini"
    asked = [of_matrix(experiment, stand_in=stand_in, seed=seed, runtime=runtime) for seed in blank.seeds]
    found: dict[str, list[dict[str, Value]]] = {}
    if experiment.kind == "cosine":
        squares = [geometry(resolve(each, progress).pool, progress).cosines() for each in asked]
    else:
        reports = transfer_reports(asked, out, progress)
        squares = [transfer_square(each, of_each) for each, of_each in zip(asked, reports, strict=True)]
        for of_each in reports:
            for name, report in of_each.items():
                found.setdefault(name, []).append(values_of(report))
    matrix = replace(squares[0], values=np.mean([square.values for square in squares], axis=0))
    rows = ((_model_row(experiment, name), over_seeds(values)) for name, values in found.items())
    lines = tuple(_beside(blank, row, {}, _without_averages(values), []) for row, values in rows)
    cosines = experiment.kind == "cosine" and not stand_in
    remark = cosines_beside(str(experiment.suite["name"]), matrix) if cosines else ""
    return replace(blank, lines=lines, matrix=matrix, remark=remark)


def _model_row(experiment: Experiment, name: str) -> Row:
    """Return the row of one unmerged model: the tables call the experts' rows by the data set they were trained on."""
    dataset = next((theirs for theirs, ours in experiment.tasks.items() if ours == name), name)
    printed = (
        Printed(method="pretrained") if name == BASE else Printed(method="finetuned", variant={"trained_on": dataset})
    )
    return Row(label=name, method={"name": "pretrained"}, printed=printed)


def _without_averages(values: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if name not in (AVERAGE, UNSEEN)}


def _line(blank: Answer, found: _Found) -> Line:
    point = found.point
    varied = {blank.experiment.variant.get(key, key): _word(value) for key, value in point.values.items()}
    remarks = found.remarks()
    if blank.which == "mini":
        own = [f"{key}={value}" for key, value in point.row.stand_in_params.items()]
        remarks += [f"{', '.join(own)} on the stand-in"] if own else []
    return _beside(blank, point.row, varied, over_seeds(found.values), remarks)


def _beside(
    blank: Answer, row: Row, varied: Mapping[str, str], values: Mapping[str, Value], remarks: Sequence[str]
) -> Line:
    """Return a line with the printed cells of its row, and verdicts where the numbers may be compared."""
    printed = printed_of(blank.experiment, row, varied)
    if blank.which == "mini":
        # Its tasks are others, even where a name is the same: only averages stand side by side.
        printed = {name: value for name, value in printed.items() if name in (AVERAGE, UNSEEN)}
    verdicts = {} if blank.which == "mini" else judge(blank.experiment, row, values, printed)
    # On a stand-in no cell is judged, whatever the row.
    unjudged = [UNJUDGED[row.pipeline]] if row.pipeline in UNJUDGED and printed and blank.which == "paper" else []
    said = [*remarks, *unjudged, *misprints_of(blank.experiment, row, varied)]
    return Line(row.label, varied, values, printed, verdicts, "; ".join(said))


def _word(value: Any) -> str:
    """Return a varied value as the tables write it: no corruption is "clean"."""
    return "clean" if value is None else str(value)
