"""Verdicts and rankings on numbers that are worked out by hand."""

import math

import pytest

from fusionbench.experiments.answer import Line, Value, judge, own_name, ranking, rankings, values_of
from fusionbench.experiments.model import load_experiment
from fusionbench.experiments.printed import printed_of
from fusionbench.records import MethodRef, MetricInfo, Report, Score, TaskScore, Variant

TABLE = load_experiment("multi-task-clip-b32")
ROW = {row.label: row for row in TABLE.rows}


def line(label: str, ours: float, printed: float) -> Line:
    return Line(label, {}, {"average": Value(ours)}, {"average": printed}, {})


def test_printed_cells_of_a_row_are_those_of_the_paper():
    printed = printed_of(TABLE, ROW["simple_average"], {})
    assert printed["average"] == 66.5
    assert len(printed) == 9
    assert printed_of(TABLE, ROW["smile"], {})["average"] == 89.3


@pytest.mark.parametrize(
    ("pipeline", "ours", "stderr", "verdict"),
    [
        ("average", 66.85, 0.0, "agrees"),  # 0.05 + 0.3
        ("average", 66.86, 0.0, "differs"),
        ("average", 67.25, 0.2, "agrees"),  # 0.05 + 2 · 0.2 + 0.3
        ("average", 67.26, 0.2, "differs"),
        ("adapted", 67.55, 0.0, "agrees"),
        ("adapted", 65.44, 0.0, "differs"),
        ("retrained", 10.0, 0.0, ""),
        ("quoted", 66.5, 0.0, ""),
    ],
)
def test_a_cell_agrees_within_rounding_two_standard_errors_and_the_rows_tolerance(pipeline, ours, stderr, verdict):
    row = ROW["simple_average"].model_copy(update={"pipeline": pipeline})
    found = judge(TABLE, row, {"average": Value(ours, 1000, stderr)}, {"average": 66.5, "sun397": None, "dtd": 5.0})
    assert found == {"average": verdict, "sun397": "", "dtd": ""}


@pytest.mark.parametrize("name", ["re-ties-clip-b32", "re-ties-clip-l14", "re-ties-overview"])
def test_columns_of_other_splits_than_the_suites_get_no_verdict(name):
    table = load_experiment(name)
    row = next(row for row in table.rows if row.label == "individual")
    printed = printed_of(table, row, {})
    found = judge(table, row, {column: Value(value or 0.0) for column, value in printed.items()}, printed)
    assert {column for column, verdict in found.items() if not verdict} == set(table.other_data)
    assert set(found.values()) <= {"agrees", ""}


def test_equal_orders_have_tau_1_and_opposite_ones_minus_1():
    same = [line("a", 1.0, 50.0), line("b", 2.0, 60.0), line("c", 3.0, 70.0), line("d", 4.0, 80.0)]
    # Of the 4! orders one agrees wholly and one not at all: p = 2/24
    assert (ranking(same).tau, ranking(same).rows) == (1.0, 4)
    assert ranking(same).p == pytest.approx(2 / 24)
    turned = [line(label, -value, printed) for label, value, printed in (("a", 1, 50), ("b", 2, 60), ("c", 3, 70))]
    assert ranking(turned).tau == -1.0
    assert ranking(same[:2]) is None


def test_equal_averages_count_as_ties():
    # Of three pairs two agree and one is tied in ours: 2 / √(2 · 3).
    found = ranking([line("a", 1.0, 10.0), line("b", 1.0, 20.0), line("c", 2.0, 30.0)])
    assert found.tau == pytest.approx(2 / 6**0.5)


def test_the_standard_error_of_an_average_is_that_of_independent_tasks():
    scores = {
        name: TaskScore.of({"accuracy": Score(value=value, n=100, stderr=stderr)}, seen=name != "c")
        for name, value, stderr in (("a", 0.5, 0.03), ("b", 0.75, 0.04), ("c", 1.0, 0.01))
    }
    metrics = {"accuracy": MetricInfo()}
    report = Report.build(
        identity="sha256:0", method=MethodRef(name="ties"), variants=[Variant.build(scores, metrics)], metrics=metrics
    )
    found = values_of(report)
    # √(3² + 4²) / 2 of the seen ones.
    assert found["average"] == Value(62.5, None, pytest.approx(2.5))
    assert found["unseen_average"] == Value(100.0, None, pytest.approx(1.0))
    assert found["a"] == Value(50.0, 100, pytest.approx(3.0))


def report_of(**values: tuple[float, float, float]) -> Report:
    """A report of accuracies with their standard errors, of tasks that were seen (1.0) or not (0.0)."""
    metrics = {"accuracy": MetricInfo()}
    scores = {
        name: TaskScore.of({"accuracy": Score(value=value, n=100, stderr=stderr)}, seen=bool(seen))
        for name, (value, stderr, seen) in values.items()
    }
    return Report.build(
        identity="sha256:0", method=MethodRef(name="ties"), variants=[Variant.build(scores, metrics)], metrics=metrics
    )


def test_values_are_divided_by_those_of_the_experts_task_by_task():
    merged = report_of(a=(0.6, 0.04, 1), b=(0.4, 0.01, 1), c=(0.1, 0.01, 0))
    alone = report_of(a=(0.8, 0.04, 1), b=(0.5, 0.01, 1), c=(0.2, 0.01, 0))
    # (.75 + .8) / 2; errors .05 and .02 of the shares; what is unseen has no part in it.
    share = values_of(merged, alone)["normalized"]
    assert share.value == pytest.approx(77.5)
    assert share.stderr == pytest.approx(100 * math.hypot(0.05, 0.02) / 2)
    assert "normalized" not in values_of(merged)
    # An expert that is missing leaves no mean: it would be over other tasks.
    assert "normalized" not in values_of(merged, report_of(a=(0.8, 0.04, 1)))


def test_printed_metrics_of_scenes_stand_beside_ours_in_the_tables_unit():
    """The tables print depth errors × 100: 42.5 is 0.425 m."""
    table = load_experiment("multi-task-resnet50-nyuv2")
    units = {"absolute_error": "metres", "relative_error": "ratio", "angle_mean": "degrees", "mean_iou": "fraction"}
    metrics = {name: MetricInfo(unit=unit) for name, unit in units.items()} | {"pixel_accuracy": MetricInfo()}
    depth = {"absolute_error": Score(value=0.425, n=9), "relative_error": Score(value=0.177, n=9)}
    segmentation = {"mean_iou": Score(value=0.52, n=9), "pixel_accuracy": Score(value=0.738, n=9)}
    scores = {
        "segmentation": TaskScore.of(segmentation, seen=True),
        "depth": TaskScore.of(depth, seen=True),
        "normal": TaskScore.of({"angle_mean": Score(value=24.7, n=9)}, seen=True),
    }
    report = Report.build(
        identity="sha256:0", method=MethodRef(name="individual"), variants=[Variant.build(scores, metrics)],
        metrics=metrics,
    )  # fmt: skip
    found = values_of(report)
    row = next(row for row in table.rows if row.label == "individual")
    printed = printed_of(table, row, {})
    assert len(printed) == 5
    for name, target in printed.items():
        assert found[own_name(table, name)].value == pytest.approx(target), name


def test_yardsticks_are_left_out_of_the_order_of_fused_rows():
    both = [("pretrained", 1.0, 48.2), ("individual", 9.0, 90.3)]
    fused = [("simple_average", 4.0, 66.5), ("task_arithmetic", 3.0, 68.0), ("ties", 2.0, 72.2)]
    lines = [line(*values) for values in (*both, *fused)]
    whole, alone = rankings(TABLE, lines, stand_in=True)
    # Ten pairs: three among the fused rows are turned round, the other seven agree.
    assert (whole.of, whole.rows, whole.tau) == ("rows", 5, pytest.approx(0.4))
    assert (alone.of, alone.rows, alone.tau) == ("fused rows", 3, -1.0)


def test_averages_over_other_tasks_are_not_ordered_together():
    table = load_experiment("concrete-generalization-clip-b32")
    first = [line(row.label, 1.0 + place, 70.0 + place) for place, row in enumerate(table.rows) if "set 1" in row.label]
    second = [
        line(row.label, 50.0 - place, 10.0 + place) for place, row in enumerate(table.rows) if "set 2" in row.label
    ]
    found = rankings(table, [*first, *second], stand_in=False)
    assert [(order.of, order.tau) for order in found] == [
        ("rows with mnist, eurosat unseen", pytest.approx(1.0)),
        ("rows with resisc45, svhn unseen", pytest.approx(-1.0)),
    ]
