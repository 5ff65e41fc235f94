"""Which of several models validation data like best, where tasks may be scored in unlike units and directions."""

from collections.abc import Mapping

from fusionbench.tasks import Task

Scores = Mapping[str, float]
TINY = 1e-12
"""What stands for a value of 0 in a quotient."""


def lower_is_better(task: Task) -> bool:
    """Return whether the task's primary value falls when a model improves: an error, a perplexity."""
    return bool(task.metrics) and task.metrics[0].better == "lower"


def preferred(scores: Scores, tasks: Mapping[str, Task]) -> dict[str, float]:
    """Return each task's primary value with the sign that makes the larger one the better one."""
    return {name: -value if lower_is_better(tasks[name]) else value for name, value in scores.items()}


def alike(tasks: Mapping[str, Task]) -> bool:
    """Return whether a mean over the tasks' primary values means something: all are shares, better when larger."""
    return all(
        not task.metrics or (task.metrics[0].unit in ("fraction", "correlation") and not lower_is_better(task))
        for task in tasks.values()
    )


def overall(scores: Scores, tasks: Mapping[str, Task], against: Scores) -> float:
    """Return one number for a model, the larger the better.

    The mean of the primary values where they are shares; else the mean over tasks of value / reference, or of
    reference / value where lower is better, as reports normalise.

    Args:
        scores: primary value by task.
        tasks: by name.
        against: the reference's primary values; the same for all models that are compared.
    """
    if alike(tasks):
        return sum(scores.values()) / len(scores)
    shares = [
        against[name] / (value or TINY) if lower_is_better(tasks[name]) else value / (against[name] or TINY)
        for name, value in scores.items()
    ]
    return sum(shares) / len(shares)
