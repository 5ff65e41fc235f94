"""What an experiment answers: our values beside the printed ones, cell by cell, with verdicts by stated rules."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fusionbench.experiments.model import TOLERANCE, Experiment, Row
from fusionbench.experiments.printed import UNSEEN
from fusionbench.experiments.published import AVERAGE
from fusionbench.experiments.published.provenance import printed_names
from fusionbench.records import FRACTION, Report
from fusionbench.records.scores import normalized
from fusionbench.report.tables import REFERENCES

ROUNDING = 0.05
"""Points: half of the last printed digit."""
NORMALIZED = "normalized"
"""The column of means of values divided by those of each task's own expert."""
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


def values_of(report: Report, alone: Report | None = None) -> dict[str, Value]:
    """Return a report's primary value of each task, its further metrics as `task/metric`, and the averages.

    The standard error of an average is √Σ s² / T over its T tasks, whose examples are independent.

    Args:
        report: of a run.
        alone: of the run of each task's own expert, by whose values those of the report are divided for their
            normalized mean; None for none.
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
    if alone is not None and (share := _share(report, alone)) is not None:
        found[NORMALIZED] = share
    return found


def _share(report: Report, alone: Report) -> Value | None:
    """Return the mean over the seen tasks of a value divided by the expert's own, whose error is not counted."""
    own = {task: scores.value for task, scores in alone.tasks.items() if scores.value is not None}
    mean = normalized(report.tasks, report.metrics, own)
    if mean is None:
        return None
    seen = {task: scores for task, scores in report.tasks.items() if scores.seen}
    errors = [next(iter(scores.metrics.values())).stderr for scores in seen.values()]
    shares = [error / own[task] for task, error in zip(seen, errors, strict=True) if error is not None]
    stderr = 100 * math.hypot(*shares) / len(seen) if len(shares) == len(seen) else None
    return Value(100 * mean, stderr=stderr)


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
