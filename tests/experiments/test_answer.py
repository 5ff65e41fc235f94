"""Verdicts, rankings and claims on numbers that are worked out by hand."""

import pytest

from fusionbench.experiments.answer import Line, Value, judge, judged, printed_of, ranking
from fusionbench.experiments.model import Experiment, load_experiment

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


def test_equal_orders_have_tau_1_and_opposite_ones_minus_1():
    same = [line("a", 1.0, 50.0), line("b", 2.0, 60.0), line("c", 3.0, 70.0), line("d", 4.0, 80.0)]
    # Of the 4! orders one agrees wholly and one not at all: p = 2/24
    assert (ranking(same).tau, ranking(same).rows) == (1.0, 4)
    assert ranking(same).p == pytest.approx(2 / 24)
    turned = [line(label, -value, printed) for label, value, printed in (("a", 1, 50), ("b", 2, 60), ("c", 3, 70))]
    assert ranking(turned).tau == -1.0
    assert ranking(same[:2]) is None


def test_claims_are_judged_by_averages_and_missing_rows_leave_them_open():
    document = {
        "name": "x", "title": "x", "paper": "none", "suite": {"name": "mini/clip"}, "stand_in": {"name": "mini/clip"},
        "claims": [
            {"text": "a beats b", "higher": "a", "lower": "b"}, {"text": "b beats c", "higher": "b", "lower": "c"},
        ],
    }  # fmt: skip
    experiment = Experiment.read(document, "x")
    first, second = judged(experiment, [line("a", 1.0, 1.0), line("b", 2.0, 2.0), line("b", 4.0, 2.0)])
    assert (first.ours, first.holds) == ((1.0, 3.0), False)
    assert (second.ours, second.holds) == (None, None)
