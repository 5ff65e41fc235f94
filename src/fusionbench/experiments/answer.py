"""What an experiment answers: our values beside the printed ones, cell by cell, with verdicts by stated rules."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fusionbench.experiments.model import TOLERANCE, Experiment, Row
from fusionbench.experiments.published import AVERAGE, Cell, cells
from fusionbench.records import FRACTION, Report

ROUNDING = 0.05
"""Points: half of the last printed digit."""
UNSEEN = "unseen_average"
OWN = "own"
Verdict = Literal["agrees", "differs", ""]


@dataclass(frozen=True, slots=True)
class Value:
    """One of our values: in points where it is a fraction (× 100), else in the metric's own unit."""

    value: float
    n: int | None = None
    stderr: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the answer: a method at one point of what is varied.

    Attributes:
        label: of the row.
        varied: values of the varied keys, in the tables' words.
        values: ours, by task and metric, the average under "average".
        printed: theirs, by the tables' names.
        verdicts: by the same.
        note: what a reader must know of the row, such as what was selected.
    """

    label: str
    varied: Mapping[str, str]
    values: Mapping[str, Value]
    printed: Mapping[str, float | None]
    verdicts: Mapping[str, Verdict]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """How alike two orders of the rows are: Kendall's τ of the averages, with its exact p-value."""

    tau: float
    p: float
    rows: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim with our averages of its two rows; None where a row was not run."""

    text: str
    higher: str
    lower: str
    ours: tuple[float, float] | None

    @property
    def holds(self) -> bool | None:
        """Whether it holds in our runs; None where it cannot be said."""
        return None if self.ours is None else self.ours[0] > self.ours[1]


def values_of(report: Report) -> dict[str, Value]:
    """Return a report's primary value of each task, its further metrics as `task/metric`, and the average."""
    found: dict[str, Value] = {}
    for task, scores in report.tasks.items():
        for number, (metric, score) in enumerate(scores.metrics.items()):
            if score.value is None:
                continue
            factor = 100.0 if report.metrics[metric].unit == FRACTION else 1.0
            stderr = None if score.stderr is None else factor * score.stderr
            value = Value(factor * score.value, score.n, stderr)
            found[f"{task}/{metric}"] = value
            if number == 0:
                found[task] = value
    if report.primary_average is not None:
        found[AVERAGE] = Value(100 * report.primary_average.value)
        unseen = (report.unseen_average or {}).get(report.primary_average.metric)
        if unseen is not None:
            found[UNSEEN] = Value(100 * unseen)
    return found


def printed_of(experiment: Experiment, row: Row, varied: Mapping[str, str]) -> dict[str, float | None]:
    """Return the printed value of each column of a row; None where a cell is in doubt or missing.

    Where several tables print a cell, the first sound one counts: the tables of the earlier text are cleaner.
    """
    if row.printed is None:
        return {}
    wanted = {**row.printed.variant, **varied}
    found: dict[str, float | None] = {}
    for file in experiment.published:
        for cell in cells(file):
            if cell.method == row.printed.method and _fits(dict(cell.variant), _for(cell, wanted)):
                key = _column(cell)
                if found.get(key) is None:
                    found[key] = cell.value if cell.sound else None
    return found


def _for(cell: Cell, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return what is wanted of a cell: "own" stands for the model that was trained on the cell's data set."""
    return {key: cell.dataset if value == OWN else value for key, value in wanted.items()}


def _column(cell: Cell) -> str:
    """Return the name of a printed cell's column: a dataset, with its metric where a dataset has several."""
    if cell.dataset == AVERAGE:
        return UNSEEN if ("split", "unseen") in cell.variant else AVERAGE
    return cell.dataset if cell.metric in ("accuracy", "spearman") else f"{cell.dataset}/{cell.metric}"


def _fits(variant: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Tell whether a printed cell is of the wanted row: equal in all that is asked; `split` is no part of a row."""
    own = {key: value for key, value in variant.items() if key not in ("split", "total_params")}
    return own == dict(wanted)


def judge(
    experiment: Experiment, row: Row, ours: Mapping[str, Value], printed: Mapping[str, float | None]
) -> dict[str, Verdict]:
    """Return a verdict for each printed cell: |ours − printed| ≤ 0.05 + 2·s.e. + the row's tolerance agrees."""
    tolerance = TOLERANCE[row.pipeline]
    verdicts: dict[str, Verdict] = {}
    for name, target in printed.items():
        value = ours.get(own_name(experiment, name))
        if target is None or value is None or tolerance is None:
            verdicts[name] = ""
            continue
        allowed = ROUNDING + 2 * (value.stderr or 0.0) + tolerance
        verdicts[name] = "agrees" if abs(value.value - target) <= allowed else "differs"
    return verdicts


def own_name(experiment: Experiment, name: str) -> str:
    """Return our name of a printed column."""
    dataset, slash, metric = name.partition("/")
    return f"{experiment.tasks.get(dataset, dataset)}{slash}{metric}"


def ranking(lines: Sequence[Line]) -> Ranking | None:
    """Return how alike our order of the rows is to the printed one, by averages; None for fewer than three rows."""
    from scipy.stats import kendalltau

    pairs = [
        (line.values[AVERAGE].value, average)
        for line in lines
        if AVERAGE in line.values and (average := line.printed.get(AVERAGE)) is not None
    ]
    if len(pairs) < 3:
        return None
    ours, theirs = zip(*pairs, strict=True)
    ties = len(set(ours)) < len(ours) or len(set(theirs)) < len(theirs)
    found = kendalltau(ours, theirs, method="asymptotic" if ties else "exact")
    return None if math.isnan(found.statistic) else Ranking(float(found.statistic), float(found.pvalue), len(pairs))


def judged(experiment: Experiment, lines: Sequence[Line]) -> list[Judged]:
    """Return the claims with our averages; along a varied key, a row counts by its mean."""
    averages: dict[str, list[float]] = {}
    for line in lines:
        if AVERAGE in line.values:
            averages.setdefault(line.label, []).append(line.values[AVERAGE].value)
    means = {label: sum(found) / len(found) for label, found in averages.items()}
    return [
        Judged(
            claim.text,
            claim.higher,
            claim.lower,
            (means[claim.higher], means[claim.lower]) if {claim.higher, claim.lower} <= means.keys() else None,
        )
        for claim in experiment.claims
    ]
