"""Metrics of written answers: rank correlation of numbers, and accuracy over several wordings of a question."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from fusionbench.tasks.base import Metric, Rows

RESAMPLES = 1000
Floats = NDArray[np.floating[Any]]


def spearman(rows: Rows) -> tuple[float, float]:
    """Return Spearman's ρ between answers and targets, and its standard error by bootstrap over examples.

    It is 0 where all answers are equal, as where none is a number (FusionBench, arXiv:2406.03280): no order was given.

    Args:
        rows: with "answer" and "target", `(examples,)` numbers, at least one; the targets are not all equal.
    """
    answers, targets = rows["answer"][None], rows["target"][None]
    # Counter-based, so that an error of the same rows is the same everywhere.
    raw = np.random.Philox(key=0).random_raw(RESAMPLES * answers.shape[1])
    drawn = (raw % answers.shape[1]).astype(np.int64).reshape(RESAMPLES, -1)
    resampled = rank_correlations(answers[0][drawn], targets[0][drawn])
    return float(rank_correlations(answers, targets)[0]), float(resampled.std(ddof=1))


def rank_correlations(answers: Floats, targets: Floats) -> Floats:
    """Return ρ of each pair of rows of `(samples, examples)`; 0 where one has no order."""
    first, second = (rankdata(values, axis=1) for values in (answers, targets))
    first -= first.mean(axis=1, keepdims=True)
    second -= second.mean(axis=1, keepdims=True)
    scale = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    found: Floats = (first * second).sum(axis=1) / np.where(scale > 0, scale, 1.0)
    return found


def median_accuracy(rows: Rows) -> tuple[float, float]:
    """Return the median over templates of the share p of correct examples, and √(p·(1 − p) / n).

    Args:
        rows: with "correct", `(examples, templates)` bool, at least one of each.
    """
    correct = rows["correct"]
    middle = float(np.median(correct.mean(axis=0)))
    return middle, math.sqrt(middle * (1 - middle) / len(correct))


SPEARMAN = Metric("spearman", "fraction", "higher", spearman)
MEDIAN_ACCURACY = Metric("median_accuracy", "fraction", "higher", median_accuracy)
