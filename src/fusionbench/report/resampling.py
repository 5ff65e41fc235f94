"""A metric's value on many resamples of the same examples at once, from the rows that a run keeps of each example."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import ConfigError
from fusionbench.registry import suggestion

Rows = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.int64]], Floats]
"""From indices of examples, `(resamples, examples)`, to one value a resample."""
SUMMED: Mapping[str, tuple[str, ...]] = {
    "mean_iou": ("confusion",),
    "pixel_accuracy": ("confusion",),
    "absolute_error": ("absolute", "pixels"),
    "relative_error": ("relative", "pixels"),
    "angle_mean": ("degrees", "pixels"),
    "perplexity": ("loss", "tokens"),
    "token_loss": ("loss", "tokens"),
}
"""Metrics of sums over examples, with their columns: a resample's value is that of one example which holds the sums."""
MEANS = ("correct", "score")
"""Columns whose mean is the metric, where no metric is known by its name."""


def statistic_of(metric: str, rows: Rows) -> Statistic:
    """Return a metric as a function of resamples of a run's rows.

    Args:
        metric: its name, as reports have it.
        rows: columns by name, each with one row an example.

    Raises:
        ConfigError: where the metric is not known and the rows have no column to average.
    """
    from fusionbench.tasks.answers import rank_correlations
    from fusionbench.tasks.confusion import f1_of, matthews_of

    if metric == "median_accuracy":
        return lambda chosen: np.median(rows["correct"][chosen].mean(axis=1), axis=1)
    if metric == "spearman":
        answers, targets = rows["answer"], rows["target"]
        return lambda chosen: rank_correlations(answers[chosen], targets[chosen]).astype(np.float64)
    if metric in ("matthews", "f1"):
        return _of_confusion(rows, matthews_of if metric == "matthews" else f1_of)
    if metric in SUMMED:
        return _of_sums(rows, metric)
    column = next((name for name in MEANS if name in rows and rows[name].ndim == 1), None)
    if column is None:
        known = ["accuracy", "median_accuracy", "spearman", "matthews", "f1", *SUMMED]
        raise ConfigError(f"Runs cannot be compared by {metric!r}. {suggestion(metric, known)}")
    values = rows[column].astype(np.float64)
    return lambda chosen: values[chosen].mean(axis=1)


def _of_confusion(rows: Rows, metric: Callable[[Floats], Floats]) -> Statistic:
    label, predicted = rows["label"].astype(np.int64), rows["predicted"].astype(np.int64)
    classes = max(int(label.max()), int(predicted.max()), 1) + 1
    cells = label * classes + predicted

    def statistic(chosen: NDArray[np.int64]) -> Floats:
        counts = [np.bincount(cells[one], minlength=classes**2) for one in chosen]
        return metric(np.stack(counts).reshape(-1, classes, classes).astype(np.float64))

    return statistic


def _of_sums(rows: Rows, metric: str) -> Statistic:
    compute = _summed_metrics()[metric]
    flat = {name: rows[name].reshape(len(rows[name]), -1).astype(np.float64) for name in SUMMED[metric]}

    def statistic(chosen: NDArray[np.int64]) -> Floats:
        times = np.stack([np.bincount(one, minlength=chosen.shape[1]) for one in chosen]).astype(np.float64)
        sums = {name: (times @ column).reshape(-1, *rows[name].shape[1:]) for name, column in flat.items()}
        values = [
            compute({name: total[number : number + 1] for name, total in sums.items()})[0]
            for number in range(len(chosen))
        ]
        return np.array(values)

    return statistic


def _summed_metrics() -> dict[str, Callable[[Any], tuple[float, float]]]:
    from fusionbench.tasks.dense_metrics import DEPTH, NORMALS, SEGMENTATION
    from fusionbench.tasks.perplexity import PERPLEXITY, TOKEN_LOSS

    return {metric.name: metric.compute for metric in (*SEGMENTATION, *DEPTH, *NORMALS, PERPLEXITY, TOKEN_LOSS)}
