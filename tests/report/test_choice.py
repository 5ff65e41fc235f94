"""What a figure shows of a table."""

from collections.abc import Callable

import pytest

from fusionbench.records import MetricInfo, Run
from fusionbench.report.choice import comparable, sweeps_of
from fusionbench.report.tables import table_of, tables_of

MakeRun = Callable[..., Run]


def test_fractions_are_drawn_in_percent_with_their_average(make_accuracies: MakeRun) -> None:
    runs = [
        make_accuracies("a", "pretrained", {"x": 0.25, "y": 0.5}),
        make_accuracies("b", "ties", {"x": 0.5, "y": 1.0}),
    ]
    picture = comparable(table_of(runs))
    assert picture is not None
    assert (picture.tasks, picture.values, picture.averages) == (
        ("x", "y"),
        ((25.0, 50.0), (50.0, 100.0)),
        (37.5, 75.0),
    )
    assert (picture.axis, picture.top, picture.remark) == ("accuracy (%)", 100, "")


def test_other_units_are_drawn_relative_to_the_individual_models(make_run: MakeRun) -> None:
    metrics = {"mean_iou": MetricInfo(), "abs_error": MetricInfo(unit="m", better="lower")}

    def make(folder: str, method: str, iou: float, depth: float) -> Run:
        values = {"segmentation": {"mean_iou": iou}, "depth": {"abs_error": depth}}
        return make_run(folder, method, values, metrics=metrics, individual={"segmentation": 0.5, "depth": 0.25})

    merged = make("a", "ties", 0.25, 1.0)
    assert comparable(table_of([merged])) is None
    picture = comparable(table_of([merged, make("b", "individual", 0.5, 0.25)]))
    assert picture is not None
    assert picture.axis == "score relative to individual (%)"
    assert picture.values == ((100.0, 100.0), (50.0, 25.0))
    assert picture.averages == (100.0, 37.5)


def test_a_value_above_the_individual_models_raises_the_axis(make_run: MakeRun) -> None:
    metrics = {"abs_error": MetricInfo(unit="m", better="lower")}
    runs = [
        make_run("a", "individual", {"depth": {"abs_error": 0.5}}, metrics=metrics),
        make_run("b", "ties", {"depth": {"abs_error": 0.25}}, metrics=metrics),
    ]
    picture = comparable(table_of(runs))
    assert picture is not None
    assert picture.top == pytest.approx(210)


def test_of_too_many_rows_the_best_of_each_method_are_drawn(mini_clip: list[Run], make_accuracies: MakeRun) -> None:
    partial = make_accuracies("z", "dare", {"mnist": 0.9})
    picture = comparable(table_of([*mini_clip, partial]))
    assert picture is not None
    assert [row.label for row in picture.rows] == [
        *("pretrained", "individual", "simple_average", "adamerging", "task_arithmetic (scale=0.3)")
    ]
    assert picture.remark == (
        "3 of 7 rows are drawn: the best of each method by average. 1 without a score on every task is left out."
    )


def test_a_parameter_swept_alone_is_a_curve_in_order_of_its_values(make_accuracies: MakeRun) -> None:
    runs = [
        make_accuracies("a", "task_arithmetic", {"x": 0.5}, params={"scale": 0.5, "fixed": 2}),
        make_accuracies("b", "task_arithmetic", {"x": 0.75}, params={"scale": 0.1, "fixed": 2}),
        make_accuracies("c", "ties", {"x": 0.25}, params={"scale": 1}),
        make_accuracies("d", "ties", {"x": 0.5}, params={"scale": 2}),
        make_accuracies("e", "pretrained", {"x": 0.1}),
    ]
    assert sweeps_of(table_of(runs)) == {
        "scale": {"task_arithmetic": [(0.1, 75.0), (0.5, 50.0)], "ties": [(1.0, 25.0), (2.0, 50.0)]}
    }


@pytest.mark.parametrize(
    "params",
    [
        [{"scale": 1}],
        [{"scale": 1, "density": 1}, {"scale": 2, "density": 2}],
        [{"combine": "sum"}, {"combine": "mean"}],
        [{"flag": True}, {"flag": False}],
        [{"scale": 1}, {"scale": None}],
    ],
)
def test_anything_else_is_no_curve(make_accuracies: MakeRun, params: list[dict[str, object]]) -> None:
    runs = [make_accuracies(f"r{index}", "ties", {"x": 0.5}, params=chosen) for index, chosen in enumerate(params)]
    assert sweeps_of(table_of(runs)) == {}


def test_seeds_are_no_curve(make_accuracies: MakeRun) -> None:
    runs = [make_accuracies(f"r{seed}", "ties", {"x": 0.5}, seed=seed) for seed in (0, 1)]
    assert sweeps_of(table_of(runs)) == {}


def test_of_many_rows_those_of_one_corruption_are_drawn(make_accuracies):
    runs = [
        make_accuracies(
            f"{method}-{corruption}", method, {"x": value, "y": value},
            recipe={"tasks": {"split": "test", "corruption": corruption, "severity": 2}},
        )
        for method, clean in (("ties", 0.6), ("dare", 0.5), ("della", 0.4), ("magmax", 0.3))
        # Corrupted inputs are easier here, so that the best row of each method would be a corrupted one.
        for corruption, value in ((None, clean), ("contrast", clean + 0.3))
    ]  # fmt: skip
    (table,) = tables_of(runs)
    picture = comparable(table)
    assert [row.label for row in picture.rows] == ["ties", "dare", "della", "magmax"]
    assert picture.remark == "4 of 8 rows are drawn: the best of each method by average on the clean test split."
