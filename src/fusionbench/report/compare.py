"""Is one run better than another? A paired bootstrap over the examples that both were scored on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import ConfigError, MissingData
from fusionbench.records import Run
from fusionbench.report.labels import scored_on
from fusionbench.report.resampling import statistic_of

Statistics = Mapping[str, NDArray[Any]]
RESAMPLES = 10_000
DRAWN = 2_000_000
"""Examples drawn at a time, so that memory stays bounded."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two runs on one task, first minus second.

    Attributes:
        task: its name, or "average".
        metric: what is compared.
        first: value of the first run.
        second: value of the second.
        difference: first minus second.
        low: lower end of the 95 % interval of the difference (percentile bootstrap).
        high: upper end.
        p: two-sided: twice the smaller share of resamples in which the difference has the other sign or none, at
            least 2 / (resamples + 1).
        n: examples.
    """

    task: str
    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    n: int


def compare(first: Path, second: Path, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Difference]:
    """Return the differences of two finished runs on the tasks they share, and of their averages.

    Each resample draws the same examples for both runs, so that what both find hard cancels (Efron & Tibshirani, 1993,
    ch. 13). The average is the mean over tasks whose metric is a fraction, each task resampled on its own.

    Args:
        first: folder of a run.
        second: folder of another one.
        resamples: of each task.
        seed: of the draws.

    Raises:
        MissingData: where a folder holds no finished run, or no rows of a task both have.
        ConfigError: where the runs share no task, or were scored on other examples.
    """
    runs = [Run.load(folder) for folder in (first, second)]
    reports = [run.report for run in runs]
    if reports[0].suite != reports[1].suite:
        raise ConfigError(
            f"{first} is of {_suite(runs[0])}, {second} of {_suite(runs[1])}: only runs of one suite, size and seed "
            "have examples in common."
        )
    data = [scored_on(run) or "the whole clean test split" for run in runs]
    if data[0] != data[1]:
        raise ConfigError(
            f"{first} was scored on {data[0]}, {second} on {data[1]}: their examples are not the same. Run both with "
            "the same tasks.split, tasks.corruption, tasks.severity and tasks.limit."
        )
    shared = [task for task in reports[0].tasks if task in reports[1].tasks]
    if not shared:
        raise ConfigError(f"{first} and {second} have no task in common, so there is nothing to compare.")
    found, draws = [], []
    for number, task in enumerate(shared):
        generator = np.random.default_rng([seed, number])
        difference, drawn = _of_task(task, runs, resamples, generator)
        found.append(difference)
        if reports[0].metrics[difference.metric].unit == "fraction":
            draws.append((difference, drawn))
    if len(draws) > 1:
        found.append(_average([d for d, _ in draws], np.mean([drawn for _, drawn in draws], axis=0)))
    return found


def _suite(run: Run) -> str:
    suite = run.report.suite
    return "no suite" if suite is None else f"{suite.name} ({suite.size}, seed {suite.seed})"


def _of_task(
    task: str, runs: list[Run], resamples: int, generator: np.random.Generator
) -> tuple[Difference, NDArray[np.float64]]:
    """Return the difference on a task, and that of each resample."""
    rows = [_rows(run, task) for run in runs]
    counts = [len(next(iter(columns.values()))) for columns in rows]
    if counts[0] != counts[1]:
        raise ConfigError(
            f"{task}: {runs[0].folder} was scored on {counts[0]} examples, {runs[1].folder} on {counts[1]}. "
            "Compare runs of the same split and limit."
        )
    name = next(iter(runs[0].report.tasks[task].metrics))
    statistics = [statistic_of(name, columns) for columns in rows]
    whole = np.arange(counts[0])[None]
    first, second = (float(statistic(whole)[0]) for statistic in statistics)
    drawn = np.empty(resamples)
    chunk = max(1, DRAWN // counts[0])
    for start in range(0, resamples, chunk):
        chosen = generator.integers(0, counts[0], (min(chunk, resamples - start), counts[0]))
        drawn[start : start + len(chosen)] = statistics[0](chosen) - statistics[1](chosen)
    return _difference(task, name, first, second, drawn, counts[0]), drawn


def _rows(run: Run, task: str) -> Statistics:
    from fusionbench.run.rows import read_rows

    place = run.folder / "tasks" / f"{task}.parquet"
    if not place.is_file():
        raise MissingData(f"{place} is missing, so {run.folder} cannot be compared example by example. Run it again.")
    return read_rows(place)


def _difference(task: str, metric: str, first: float, second: float, drawn: NDArray[np.float64], n: int) -> Difference:
    low, high = np.quantile(drawn, (0.025, 0.975))
    count = len(drawn)
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (count + 1))
    return Difference(task, metric, first, second, first - second, float(low), float(high), p, n)


def _average(of: list[Difference], drawn: NDArray[np.float64]) -> Difference:
    metrics = {each.metric for each in of}
    name = metrics.pop() if len(metrics) == 1 else "mean"
    first, second = (float(np.mean([getattr(each, key) for each in of])) for key in ("first", "second"))
    return _difference("average", name, first, second, drawn, sum(each.n for each in of))
