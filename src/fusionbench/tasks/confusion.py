"""Metrics of a table of confusion, with standard errors by bootstrap over examples."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusionbench.tasks.base import Metric, Rows

RESAMPLES = 1000
Tables = NDArray[np.float64]
"""`(..., classes, classes)`: examples by true class and predicted class."""


def matthews_of(tables: Tables) -> NDArray[np.float64]:
    """Return Matthews' correlation of each table: (c·s − Σ pₖtₖ) / √((s² − Σ pₖ²)(s² − Σ tₖ²)).

    Here c is the number of correct examples, s of all, tₖ of those of a class, pₖ of those that are said to be of it.
    Where one class alone is true, or predicted, it is 0.
    """
    true, said = tables.sum(axis=-1), tables.sum(axis=-2)
    all_of = tables.sum(axis=(-1, -2))
    correct = np.trace(tables, axis1=-2, axis2=-1)
    spread = (all_of**2 - (said**2).sum(axis=-1)) * (all_of**2 - (true**2).sum(axis=-1))
    above = correct * all_of - (said * true).sum(axis=-1)
    found: Tables = np.divide(above, np.sqrt(spread), out=np.zeros_like(above), where=spread > 0)
    return found


def f1_of(tables: Tables) -> NDArray[np.float64]:
    """Return F₁ of class 1 against all others, 2·TP / (2·TP + FP + FN); 0 where nobody is of class 1 or said to be."""
    both = tables[..., 1, 1]
    total = tables[..., 1, :].sum(axis=-1) + tables[..., :, 1].sum(axis=-1)
    found: Tables = np.divide(2 * both, total, out=np.zeros_like(both), where=total > 0)
    return found


def matthews(rows: Rows) -> tuple[float, float]:
    """Return Matthews' correlation coefficient, in [−1, 1], and its standard error.

    Args:
        rows: with "label" and "predicted", `(examples,)` integers, at least one.
    """
    return _with_error(matthews_of, rows)


def f1(rows: Rows) -> tuple[float, float]:
    """Return F₁ of the class 1, in [0, 1], and its standard error.

    Args:
        rows: with "label" and "predicted", `(examples,)` integers, at least one.
    """
    return _with_error(f1_of, rows)


def _with_error(metric: Callable[[Tables], NDArray[Any]], rows: Rows) -> tuple[float, float]:
    """Return a metric and its spread over resampled examples: draws of so many examples from the table's cells."""
    label, predicted = rows["label"], rows["predicted"]
    classes = max(int(label.max()), int(predicted.max()), 1) + 1
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (label, predicted), 1)
    shares = table.ravel() / table.sum()
    drawn = np.random.Generator(np.random.Philox(key=0)).multinomial(len(label), shares, RESAMPLES)
    spread = metric(drawn.reshape(-1, classes, classes).astype(np.float64)).std(ddof=1)
    return float(metric(table.astype(np.float64))), float(spread)


MATTHEWS = Metric("matthews", "correlation", "higher", matthews)
F1 = Metric("f1", "fraction", "higher", f1)
