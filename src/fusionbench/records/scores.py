"""Scores of tasks, and the two numbers that sum a run up: the average of the primaries and the normalised score."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fusionbench.errors import ConfigError

FRACTION = "fraction"
"""The unit of values in [0, 1] (correlations: [-1, 1]) that tables print as percent."""
MIXED = "primary"
"""Key of an average whose tasks have different primary metrics."""


class Record(BaseModel):
    """Base of every record: an unknown key is an error, and a built record is never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricInfo(Record):
    """What a metric's number means: its unit, and which direction is better."""

    unit: str = FRACTION
    better: Literal["higher", "lower"] = "higher"


class Score(Record):
    """One metric of one task.

    `value` is null where the metric is not a finite number (a rank correlation of constant predictions, a perplexity
    that overflowed): JSON has no word for those, and an average that contains one is null too.
    """

    value: float | None
    n: int = Field(ge=0, description="number of examples scored")
    stderr: float | None = Field(
        default=None, ge=0, description="standard error over the examples, in the unit of value"
    )

    @field_validator("value", "stderr", mode="before")
    @classmethod
    def _only_finite(cls, number: Any) -> Any:
        return None if isinstance(number, float) and not math.isfinite(number) else number


class TaskScore(BaseModel):
    """All metrics of one task; in JSON they stand beside `seen`. The first metric is the task's primary one."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Score] = Field(init=False)

    seen: bool = True

    @model_validator(mode="after")
    def _has_a_metric(self) -> Self:
        if not self.__pydantic_extra__:
            raise ValueError("a scored task needs at least one metric; a task without a score belongs in `skipped`")
        return self

    @classmethod
    def of(cls, scores: Mapping[str, Score], *, seen: bool = True) -> Self:
        """Return the score of a task from its metrics by name, the primary one first."""
        return cls.model_validate({"seen": seen, **scores})

    @property
    def metrics(self) -> Mapping[str, Score]:
        """The scores by metric, the primary one first."""
        return self.__pydantic_extra__

    @property
    def primary(self) -> str:
        """Name of the primary metric."""
        return next(iter(self.__pydantic_extra__))

    @property
    def value(self) -> float | None:
        """Value of the primary metric."""
        return self.metrics[self.primary].value


Scores = Mapping[str, TaskScore]
Infos = Mapping[str, MetricInfo]


def info_of(metrics: Infos, name: str) -> MetricInfo:
    """Return what is known of the metric `name`; without a description it is a fraction, the higher the better."""
    return metrics.get(name, MetricInfo())


def check_described(tasks: Scores, metrics: Infos) -> None:
    """Refuse scores of metrics that `metrics` does not describe.

    Raises:
        ConfigError: naming each task and metric without a unit and a direction.
    """
    unknown = [f"{task}.{name}" for task, score in tasks.items() for name in score.metrics if name not in metrics]
    if unknown:
        raise ConfigError(
            f"No unit and direction are given for {', '.join(unknown)}. "
            f"Described metrics: {', '.join(metrics) or 'none'}. Add each to the metrics of its task."
        )


def mean_of_primaries(scores: Iterable[TaskScore], metrics: Infos) -> float | None:
    """Return the mean of the tasks' primary values, or None where it would mean nothing.

    It means nothing without tasks, where a value is undefined, or where a primary is not a fraction of which higher is
    better. The sum is rounded once, so the order of the tasks does not matter.
    """
    values: list[float] = []
    for score in scores:
        info = info_of(metrics, score.primary)
        if score.value is None or info.unit != FRACTION or info.better != "higher":
            return None
        values.append(score.value)
    return math.fsum(values) / len(values) if values else None


def average(tasks: Scores, metrics: Infos, *, seen: bool) -> dict[str, float] | None:
    """Return `{metric: mean}` over the seen (or the unseen) tasks, keyed "primary" where their primaries differ."""
    chosen = [score for score in tasks.values() if score.seen is seen]
    mean = mean_of_primaries(chosen, metrics)
    if mean is None:
        return None
    names = {score.primary for score in chosen}
    return {names.pop() if len(names) == 1 else MIXED: mean}


def name_of_average(tasks: Scores) -> str:
    """Return what the average over the seen tasks averages, for example "mean_of_accuracy_and_spearman"."""
    names = list(dict.fromkeys(score.primary for score in tasks.values() if score.seen))
    return names[0] if len(names) == 1 else f"mean_of_{'_and_'.join(names)}"


def normalized(tasks: Scores, metrics: Infos, individual: Mapping[str, float] | None) -> float | None:
    """Return the mean over the seen tasks of merged / individual (individual / merged where lower is better).

    Args:
        tasks: scores of the merged model.
        metrics: units and directions.
        individual: value of each task's primary metric for the task's own expert.

    Returns:
        The mean ratio; None without individual values, and where a seen task lacks one or has a ratio without a value.
    """
    ratios = [_ratio(task, score, metrics, individual or {}) for task, score in tasks.items() if score.seen]
    known = [ratio for ratio in ratios if ratio is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(ratios) else None


def _ratio(task: str, score: TaskScore, metrics: Infos, individual: Mapping[str, float]) -> float | None:
    merged, alone = score.value, individual.get(task)
    if merged is None or alone is None:
        return None
    above, below = (merged, alone) if info_of(metrics, score.primary).better == "higher" else (alone, merged)
    return above / below if below else None
