"""What an experiment answers: our values beside the printed ones, cell by cell, with verdicts by stated rules."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from fusionbench.experiments.model import TOLERANCE, Claim, Experiment, Row
from fusionbench.experiments.printed import UNSEEN
from fusionbench.experiments.published import AVERAGE
from fusionbench.experiments.published.provenance import printed_names
from fusionbench.records import FRACTION, Report
from fusionbench.report.tables import REFERENCES

ROUNDING = 0.05
"""Points: half of the last printed digit."""
HUNDREDFOLD = (FRACTION, "metres", "ratio")
"""Units of metrics that the tables print × 100: depth errors, too; angles are in degrees."""
Verdict = Literal["agrees", "differs", ""]


@dataclass(frozen=True, slots=True)
class Value:
    """One of our values as the tables print them: × 100 where the unit is of `HUNDREDFOLD`, else in its own unit.

    Attributes:
        value: of one run, or the mean over seeds.
        n: examples that each run was scored on.
        stderr: over examples; over seeds where there are several.
        seeds: how many runs the value is the mean of.
        sampling: of several seeds, the mean of the runs' standard errors over examples, which verdicts count with.
    """

    value: float
    n: int | None = None
    stderr: float | None = None
    seeds: int = 1
    sampling: float | None = None

    @property
    def over_examples(self) -> float | None:
        """The standard error over the examples of one run, however many seeds there are."""
        return self.stderr if self.seeds == 1 else self.sampling


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
    """How alike two orders of rows are: Kendall's τ of the averages, with its exact p-value.

    Attributes:
        tau: from −1 (turned round) to 1 (the same order).
        p: of as extreme a τ, were the orders unrelated.
        rows: how many were ordered.
        of: which.
    """

    tau: float
    p: float
    rows: int
    of: str = "rows"


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim with our two values and the printed ones; None where one of them is missing.

    Attributes:
        text: the claim.
        higher: row, column and varied value that are said to be larger.
        lower: those that are said to be smaller.
        ours: both values here.
        printed: both values in the tables.
        stderr: of the difference of our two values, as if their errors were independent; None where one has none.
    """

    text: str
    higher: str
    lower: str
    ours: tuple[float, float] | None
    printed: tuple[float, float] | None = None
    stderr: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether it holds in our runs; None where it cannot be said."""
        return None if self.ours is None else self.ours[0] > self.ours[1]

    @property
    def close(self) -> bool:
        """Whether our values are no further apart than two standard errors, so that chance may have ordered them."""
        return self.ours is not None and self.stderr is not None and abs(self.ours[0] - self.ours[1]) <= 2 * self.stderr


def values_of(report: Report) -> dict[str, Value]:
    """Return a report's primary value of each task, its further metrics as `task/metric`, and the averages.

    The standard error of an average is √Σ s² / T over its T tasks, whose examples are independent.
    """
    found: dict[str, Value] = {}
    for task, scores in report.tasks.items():
        for number, (metric, score) in enumerate(scores.metrics.items()):
            if score.value is None:
                continue
            factor = 100.0 if report.metrics[metric].unit in HUNDREDFOLD else 1.0
            stderr = None if score.stderr is None else factor * score.stderr
            value = Value(factor * score.value, score.n, stderr)
            found[f"{task}/{metric}"] = value
            if number == 0:
                found[task] = value
    if report.primary_average is not None:
        found[AVERAGE] = Value(100 * report.primary_average.value, stderr=_of_average(report, found, seen=True))
        unseen = (report.unseen_average or {}).get(report.primary_average.metric)
        if unseen is not None:
            found[UNSEEN] = Value(100 * unseen, stderr=_of_average(report, found, seen=False))
    return found


def _of_average(report: Report, values: Mapping[str, Value], *, seen: bool) -> float | None:
    """Return the standard error of the mean over the seen or unseen tasks; None where a task has none."""
    names = [name for name, scores in report.tasks.items() if scores.seen == seen and name in values]
    errors = [error for name in names if (error := values[name].stderr) is not None]
    return math.hypot(*errors) / len(names) if names and len(errors) == len(names) else None


def judge(
    experiment: Experiment, row: Row, ours: Mapping[str, Value], printed: Mapping[str, float | None]
) -> dict[str, Verdict]:
    """Return a verdict for each printed cell: |ours − printed| ≤ 0.05 + 2·s.e. + the row's tolerance agrees.

    The standard error is that of one run over its examples. A printed number is of one run, so more seeds of ours do
    not make it surer; and of a merge without data all seeds are equal, which says nothing of the test split.
    """
    tolerance = TOLERANCE[row.pipeline]
    verdicts: dict[str, Verdict] = {}
    for name, target in printed.items():
        value = ours.get(own_name(experiment, name))
        if target is None or value is None or tolerance is None or name in experiment.other_data:
            verdicts[name] = ""
            continue
        allowed = ROUNDING + 2 * (value.over_examples or 0.0) + tolerance
        verdicts[name] = "agrees" if abs(value.value - target) <= allowed else "differs"
    return verdicts


def own_name(experiment: Experiment, name: str) -> str:
    """Return our name of a printed column: a task, or a task and a metric as our reports call them."""
    dataset, slash, metric = name.partition("/")
    known = printed_names().get(("metric", metric))
    return f"{experiment.tasks.get(dataset, dataset)}{slash}{known.ours if known else metric}"


def rankings(experiment: Experiment, lines: Sequence[Line], *, stand_in: bool) -> tuple[Ranking, ...]:
    """Return how alike our orders are to the printed ones: of all rows on the same tasks, and of the fused ones alone.

    Averages over other tasks have no order. Yardsticks lie at both ends of any table, where they can only agree, so
    that the fused rows are told without them, too.

    Args:
        experiment: whose rows they are.
        lines: the rows that were run.
        stand_in: whether they were run on the stand-in, whose parts are its own.
    """
    rows = {row.label: row for row in experiment.rows}
    groups: dict[str, list[Line]] = {}
    for line in lines:
        part = rows[line.label].stand_in_part if stand_in else rows[line.label].part
        groups.setdefault(f" with {', '.join(part['unseen'])} unseen" if part.get("unseen") else "", []).append(line)
    found: list[Ranking | None] = []
    for where, group in groups.items():
        fused = [line for line in group if rows[line.label].method["name"] not in REFERENCES]
        found.append(ranking(group, f"rows{where}"))
        found += [ranking(fused, f"fused rows{where}")] if len(fused) < len(group) else []
    return tuple(each for each in found if each is not None)


def ranking(lines: Sequence[Line], of: str = "rows") -> Ranking | None:
    """Return how alike our order of the rows is to the printed one, by averages; None for fewer than three rows.

    p is exact (over all orders) where no two averages are equal; with ties it is that of the normal approximation.
    """
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
    return None if math.isnan(found.statistic) else Ranking(float(found.statistic), float(found.pvalue), len(pairs), of)


def judged(experiment: Experiment, lines: Sequence[Line], *, same_tasks: bool = True) -> list[Judged]:
    """Return the claims with our values and the printed ones; along a varied key, a row counts by its mean.

    Args:
        experiment: whose claims they are.
        lines: the rows that were run.
        same_tasks: whether our tasks are the papers'; on a stand-in only averages can be said anything of.
    """
    return [_judged(experiment, claim, lines, same_tasks) for claim in experiment.claims]


def _judged(experiment: Experiment, claim: Claim, lines: Sequence[Line], same_tasks: bool) -> Judged:
    sides = (
        (claim.higher, claim.column, claim.at),
        (claim.lower, claim.lower_column or claim.column, claim.at if claim.lower_at is None else claim.lower_at),
    )
    ours, printed, names, errors = [], [], [], []
    for label, column, at in sides:
        rows = [line for line in lines if line.label == label and dict(at).items() <= dict(line.varied).items()]
        found = [line.values[own] for line in rows if (own := own_name(experiment, column)) in line.values]
        told = [value for line in rows if (value := line.printed.get(column)) is not None]
        comparable = same_tasks or column in (AVERAGE, UNSEEN)
        ours.append(fmean(value.value for value in found) if found and comparable else None)
        printed.append(fmean(told) if told else None)
        errors += [None if value.stderr is None else value.stderr / len(found) for value in found]
        words = [label, *([] if column == AVERAGE else [f"on {column}"]), *(f"{k}={v}" for k, v in at.items())]
        names.append(" ".join(words))
    known = [error for error in errors if error is not None]
    stderr = math.hypot(*known) if len(known) == len(errors) else None
    return Judged(claim.text, names[0], names[1], _pair(ours), _pair(printed), stderr)


def _pair(values: Sequence[float | None]) -> tuple[float, float] | None:
    first, second = values
    return None if first is None or second is None else (first, second)
