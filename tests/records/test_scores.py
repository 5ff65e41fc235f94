"""Averages and normalised scores, worked out by hand."""

import math

import pytest
from pydantic import ValidationError

from fusionbench.errors import ConfigError
from fusionbench.records import MetricInfo, Score, TaskScore, Variant
from fusionbench.records.scores import name_of_average

METRICS = {
    "accuracy": MetricInfo(unit="fraction", better="higher"),
    "spearman": MetricInfo(unit="fraction", better="higher"),
    "error_rate": MetricInfo(unit="fraction", better="lower"),
    "abs_error": MetricInfo(unit="m", better="lower"),
}


def scored(metric: str, value: float | None, *, seen: bool = True) -> TaskScore:
    return TaskScore.of({metric: Score(value=value, n=100, stderr=0.01)}, seen=seen)


def test_the_average_is_the_mean_of_the_primaries_under_their_name() -> None:
    variant = Variant.build({"a": scored("accuracy", 0.5), "b": scored("accuracy", 0.75)}, METRICS)
    assert variant.average == {"accuracy": 0.625}
    assert variant.unseen_average is None
    assert variant.normalized is None


def test_unseen_tasks_have_an_average_of_their_own() -> None:
    tasks = {
        "a": scored("accuracy", 0.5),
        "b": scored("accuracy", 0.25, seen=False),
        "c": scored("accuracy", 0.75, seen=False),
    }
    variant = Variant.build(tasks, METRICS)
    assert variant.average == {"accuracy": 0.5}
    assert variant.unseen_average == {"accuracy": 0.5}


def test_only_the_first_metric_of_a_task_enters_the_average() -> None:
    both = TaskScore.of({"accuracy": Score(value=0.5, n=10), "abs_error": Score(value=9.0, n=10)})
    assert Variant.build({"a": both}, METRICS).average == {"accuracy": 0.5}
    other = TaskScore.of({"abs_error": Score(value=9.0, n=10), "accuracy": Score(value=0.5, n=10)})
    assert Variant.build({"a": other}, METRICS).average is None


def test_different_fractions_average_under_the_name_primary() -> None:
    tasks = {"cola": scored("accuracy", 0.7), "stsb": scored("spearman", 0.9), "rte": scored("accuracy", 0.8)}
    average = Variant.build(tasks, METRICS).average
    assert average is not None
    assert average.keys() == {"primary"}
    assert average["primary"] == pytest.approx(0.8)
    assert name_of_average(tasks) == "mean_of_accuracy_and_spearman"


@pytest.mark.parametrize("metric", ["error_rate", "abs_error"])
def test_there_is_no_average_where_lower_is_better_or_the_unit_is_another(metric: str) -> None:
    assert Variant.build({"a": scored("accuracy", 0.5), "b": scored(metric, 0.5)}, METRICS).average is None


def test_the_normalised_score_turns_the_ratio_round_where_lower_is_better() -> None:
    tasks = {"segmentation": scored("accuracy", 0.4), "depth": scored("abs_error", 0.5)}
    # 0.4 / 0.8 = 0.5 and 0.25 / 0.5 = 0.5
    assert Variant.build(tasks, METRICS, individual={"segmentation": 0.8, "depth": 0.25}).normalized == 0.5
    # 0.4 / 0.5 = 0.8 and 0.6 / 0.5 = 1.2
    assert Variant.build(tasks, METRICS, individual={"segmentation": 0.5, "depth": 0.6}).normalized == 1.0


def test_the_normalised_score_is_over_the_seen_tasks() -> None:
    tasks = {"a": scored("accuracy", 0.3), "b": scored("accuracy", 0.9, seen=False)}
    assert Variant.build(tasks, METRICS, individual={"a": 0.6, "b": 0.9}).normalized == 0.5


@pytest.mark.parametrize("individual", [None, {}, {"a": 0.8}, {"a": 0.8, "b": 0.0}])
def test_the_normalised_score_is_null_where_a_ratio_is_missing(individual: dict[str, float] | None) -> None:
    tasks = {"a": scored("accuracy", 0.4), "b": scored("accuracy", 0.4)}
    assert Variant.build(tasks, METRICS, individual=individual).normalized is None


def test_averages_do_not_depend_on_the_order_of_the_tasks() -> None:
    values = [0.1, 0.2, 0.3, 0.7, 0.9, 1e-17, 0.333]
    tasks = {str(index): scored("accuracy", value) for index, value in enumerate(values)}
    backwards = dict(reversed(tasks.items()))
    assert Variant.build(tasks, METRICS).average == Variant.build(backwards, METRICS).average


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_null_and_so_are_its_averages(value: float) -> None:
    tasks = {"a": scored("accuracy", value), "b": scored("accuracy", 0.5)}
    assert tasks["a"].value is None
    variant = Variant.build(tasks, METRICS, individual={"a": 0.5, "b": 0.5})
    assert variant.average is None
    assert variant.normalized is None


def test_a_metric_without_unit_and_direction_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"a\.bleu.*Described metrics: accuracy"):
        Variant.build({"a": scored("bleu", 0.5)}, METRICS)


def test_a_task_without_a_metric_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least one metric"):
        TaskScore.model_validate({"seen": True})


def test_a_metric_stands_beside_seen_in_json() -> None:
    score = TaskScore.of({"accuracy": Score(value=0.5, n=4, stderr=0.25)}, seen=False)
    assert score.model_dump() == {"seen": False, "accuracy": {"value": 0.5, "n": 4, "stderr": 0.25}}
    assert TaskScore.model_validate(score.model_dump()) == score
