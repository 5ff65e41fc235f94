"""Metrics of dense tasks, from sums over the valid pixels of each example; invalid pixels count nowhere.

Standard errors are by bootstrap over examples: pixels of one image are no independent observations.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fusionbench.tasks.base import Metric, Rows

Floats = NDArray[np.float64]
DRAWS = 1000
"""Resamplings of the examples behind a standard error."""
BINS_A_DEGREE = 100
ANGLE_BINS = 180 * BINS_A_DEGREE + 1
WITHIN = (11.25, 22.5, 30.0)
"""Degrees below which a normal counts as found."""
Statistic = Callable[..., Floats]
"""From sums, each `(resamplings, …)`, to one value a resampling; NaN where nothing is valid."""


def over_examples(rows: Rows, names: tuple[str, ...], statistic: Statistic) -> tuple[float, float]:
    """Return a statistic of the summed rows, and its standard error by bootstrap over the examples.

    Args:
        rows: the first dimension one example each.
        names: of those that are summed, in the order of the statistic's arguments.
        statistic: from sums, each with a leading dimension of resamplings, to one value each.
    """
    times = _times_taken(len(rows[names[0]]))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(*(np.tensordot(times, rows[name].astype(np.float64), axes=1) for name in names))
    return float(values[0]), float(values[1:].std(ddof=1))


def _times_taken(count: int) -> Floats:
    """Return how often each example is taken, `(1 + DRAWS, count)`: once, then as the resamplings draw it."""
    # NumPy keeps the streams of bit generators across its versions, not those of Generator's methods.
    drawn = (np.random.Philox(key=0).random_raw(DRAWS * count) % np.uint64(count)).reshape(DRAWS, count)
    times = np.stack([np.bincount(one.astype(np.int64), minlength=count) for one in drawn])
    return np.concatenate([np.ones((1, count)), times])


def mean_iou(rows: Rows) -> tuple[float, float]:
    """Return the mean over classes of TP / (row + column − TP) and its standard error.

    Classes that occur neither in truth nor in prediction are left out of the mean (others let them make it NaN, or
    count them as 0).

    Args:
        rows: "confusion", `(examples, classes, classes)`: pixels by true and predicted class.
    """

    def statistic(confusion: Floats) -> Floats:
        hits = np.diagonal(confusion, axis1=1, axis2=2)
        union = confusion.sum(1) + confusion.sum(2) - hits
        there = union > 0
        ratios = np.divide(hits, union, out=np.zeros_like(hits), where=there)
        means: Floats = ratios.sum(1) / there.sum(1)
        return means

    return over_examples(rows, ("confusion",), statistic)


def pixel_accuracy(rows: Rows) -> tuple[float, float]:
    """Return the share of valid pixels with the right class; rows as for `mean_iou`."""

    def statistic(confusion: Floats) -> Floats:
        share: Floats = np.trace(confusion, axis1=1, axis2=2) / confusion.sum((1, 2))
        return share

    return over_examples(rows, ("confusion",), statistic)


def _mean(total: Floats, pixels: Floats) -> Floats:
    return total / pixels


def absolute_error(rows: Rows) -> tuple[float, float]:
    """Return mean |p − g| over valid pixels; rows: "absolute", its sum an example, and "pixels", how many."""
    return over_examples(rows, ("absolute", "pixels"), _mean)


def relative_error(rows: Rows) -> tuple[float, float]:
    """Return mean |p − g| / g over valid pixels; rows: "relative", its sum an example, and "pixels"."""
    return over_examples(rows, ("relative", "pixels"), _mean)


def angle_mean(rows: Rows) -> tuple[float, float]:
    """Return the mean angle in degrees; rows: "degrees", its sum an example, and "pixels"."""
    return over_examples(rows, ("degrees", "pixels"), _mean)


def angle_median(rows: Rows) -> tuple[float, float]:
    """Return the median angle in degrees, to 0.01°: the middle of the bin that holds the lower median.

    Args:
        rows: "angles", `(examples, 18001)`: valid pixels by angle, in bins of 0.01°.
    """
    angles, times = rows["angles"], _times_taken(len(rows["angles"]))
    starts = np.arange(0, ANGLE_BINS, BINS_A_DEGREE)
    below = (times @ np.add.reduceat(angles, starts, axis=1, dtype=np.float64)).cumsum(axis=1)
    total = below[:, -1]
    # The lower median of n values is number ⌈n / 2⌉, as torch.median has it.
    wanted = np.ceil(total / 2)[:, None]
    holding = np.where(total > 0, (below < wanted).sum(axis=1), -1)
    values = np.full(len(times), np.nan)
    # Fine bins are summed in the degree that holds the median alone: resamplings share few of these.
    for degree in set(holding.tolist()) - {-1}:
        some, first = holding == degree, starts[degree]
        inside = (times[some] @ angles[:, first : first + BINS_A_DEGREE].astype(np.float64)).cumsum(axis=1)
        if degree:
            inside += below[some, degree - 1][:, None]
        values[some] = (first + (inside < wanted[some]).sum(axis=1) + 0.5) / BINS_A_DEGREE
    return float(values[0]), float(values[1:].std(ddof=1))


def _share_within(number: int) -> Callable[[Rows], tuple[float, float]]:
    def compute(rows: Rows) -> tuple[float, float]:
        return over_examples(rows, ("within", "pixels"), lambda within, pixels: within[:, number] / pixels)

    return compute


SEGMENTATION = (
    Metric("mean_iou", "fraction", "higher", mean_iou),
    Metric("pixel_accuracy", "fraction", "higher", pixel_accuracy),
)
DEPTH = (
    Metric("absolute_error", "metres", "lower", absolute_error),
    Metric("relative_error", "ratio", "lower", relative_error),
)
NORMALS = (
    Metric("angle_mean", "degrees", "lower", angle_mean),
    Metric("angle_median", "degrees", "lower", angle_median),
    *(
        Metric(f"within_{degrees:g}".replace(".", "_"), "fraction", "higher", _share_within(number))
        for number, degrees in enumerate(WITHIN)
    ),
)
