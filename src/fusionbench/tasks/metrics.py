"""Metrics: pure functions of the stacked rows of a split."""

import math
from collections.abc import Sequence

from fusionbench.errors import ConfigError
from fusionbench.registry import suggestion
from fusionbench.tasks.base import Metric, Rows
from fusionbench.tasks.confusion import F1, MATTHEWS


def accuracy(rows: Rows) -> tuple[float, float]:
    """Return the share p of correct examples and its binomial standard error, √(p·(1 − p) / n).

    Args:
        rows: with "correct", `(examples,)` bool, at least one.
    """
    correct = rows["correct"]
    share = int(correct.sum()) / len(correct)
    return share, math.sqrt(share * (1 - share) / len(correct))


ACCURACY = Metric("accuracy", "fraction", "higher", accuracy)
CLASSIFIED = (ACCURACY, MATTHEWS, F1)
"""Those of a class and a prediction for each example."""


def chosen_metrics(task: str, names: Sequence[str], known: Sequence[Metric]) -> tuple[Metric, ...]:
    """Return the metrics that a task's description asks for, in its order.

    Args:
        task: its name, for messages.
        names: of metrics.
        known: those that can be computed of such a task's rows.

    Raises:
        ConfigError: where there is no such metric of the task, with the nearest names.
    """
    by_name = {metric.name: metric for metric in known}
    for name in names:
        if name not in by_name:
            raise ConfigError(
                f"There is no metric named {name!r} of the task {task}. {suggestion(name, list(by_name))}"
            )
    return tuple(by_name[name] for name in names)
