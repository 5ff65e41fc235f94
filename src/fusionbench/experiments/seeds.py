"""Several seeds in one answer: the mean of each cell, with its standard error over the seeds."""

from collections.abc import Sequence
from statistics import fmean, stdev

from fusionbench.experiments.answer import Value


def over_seeds(found: Sequence[dict[str, Value]]) -> dict[str, Value]:
    """Return the mean of each value over runs with several seeds, and its standard error s/√k.

    A cell that some seed lacks is left out: a mean over fewer seeds would stand beside others as if it were alike.
    One run keeps its values, whose standard errors are over examples.

    Args:
        found: values by column, one mapping a seed; at least one.
    """
    if len(found) == 1:
        return dict(found[0])
    return {name: _mean([values[name] for values in found]) for name in found[0] if all(name in v for v in found)}


def _mean(values: Sequence[Value]) -> Value:
    numbers = [value.value for value in values]
    counts = {value.n for value in values}
    error = stdev(numbers) / len(numbers) ** 0.5
    sampling = [value.stderr for value in values if value.stderr is not None]
    mean = fmean(sampling) if len(sampling) == len(values) else None
    return Value(fmean(numbers), counts.pop() if len(counts) == 1 else None, error, len(numbers), mean)
