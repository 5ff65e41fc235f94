"""Figures and page of an answer: what is drawn, from lines that are typed in here."""

import numpy as np

from fusionbench.experiments.answer import Line, Value
from fusionbench.experiments.figures import figures_of
from fusionbench.experiments.model import load_experiment
from fusionbench.experiments.page import as_html
from fusionbench.experiments.reproduce import Answer
from fusionbench.report.analysis import Square


def answer_of(name: str, *lines: Line, **more) -> Answer:
    return Answer(load_experiment(name), "mini", None, (0,), lines, **more)


def line(label: str, ours: float, printed: float | None, stderr: float | None = None, seeds: int = 1, **varied) -> Line:
    return Line(label, varied, {"average": Value(ours, 100, stderr, seeds)}, {"average": printed}, {})


def test_a_table_has_its_averages_in_the_printed_order():
    found = answer_of(
        "multi-task-clip-b32", line("ties", 60.0, 72.2, 1.5), line("individual", 90.0, 90.3), line("mine", 50.0, None)
    )
    (chart,) = figures_of(found)
    axes = chart.figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mine", "ties", "individual"]
    ours, printed = axes.lines[0], axes.lines[-1]
    assert list(ours.get_xdata()) == [50.0, 60.0, 90.0]
    assert (list(printed.get_xdata()), list(printed.get_ydata())) == ([72.2, 90.3], [1, 2])
    (legend,) = chart.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["on mini/clip", "printed, on clip-vit-b32/ta8"]
    bars = axes.collections[0].get_segments()
    np.testing.assert_allclose(bars[1][:, 0], [58.5, 61.5])


def test_a_curve_has_ours_and_theirs_side_by_side():
    found = answer_of(
        "scale-task-arithmetic-clip-b32",
        *(
            line("task_arithmetic", ours, printed, scaling=scale)
            for scale, ours, printed in (("0.0", 40.0, 48.1), ("0.3", 60.0, 69.0))
        ),
    )
    (chart,) = figures_of(found)
    ours, printed = chart.figure.axes
    assert (list(ours.lines[0].get_xdata()), list(ours.lines[0].get_ydata())) == ([0.0, 0.3], [40.0, 60.0])
    assert list(printed.lines[0].get_ydata()) == [48.1, 69.0]
    assert (ours.get_xlabel(), ours.get_ylabel(), ours.get_title("left")) == ("scaling", "average (%)", "on mini/clip")
    assert printed.get_title("left") == "printed, on openclip-vit-b32/ta8"


def test_kinds_that_are_no_numbers_stand_in_their_order_and_seeds_have_bars():
    found = answer_of(
        "robustness-clip-b32",
        line("ties", 40.0, None, 2.0, 3, corruption="clean"),
        line("ties", 30.0, None, 1.0, 3, corruption="contrast"),
    )
    (chart,) = figures_of(found)
    (axes,) = chart.figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["clean", "contrast"]
    assert list(axes.lines[0].get_xdata()) == [0, 1]
    np.testing.assert_allclose(axes.collections[0].get_segments()[0][:, 1], [38.0, 42.0])


def test_orders_of_tasks_show_the_first_task_of_each():
    experiment = load_experiment("task-orders-t5-base")
    rows = [
        Line(
            row.label,
            {"experts": "2"},
            {"average": Value(1.0), row.stand_in_part["experts"][0]: Value(50.0 + number)},
            {},
            {},
        )
        for number, row in enumerate(experiment.rows)
    ]
    (chart,) = figures_of(answer_of("task-orders-t5-base", *rows))
    (axes,) = chart.figure.axes
    assert [list(drawn.get_ydata()) for drawn in axes.lines] == [[50.0], [51.0], [52.0]]
    assert axes.get_ylabel() == "score of the first task (%)"


def test_a_matrix_is_a_heat_map():
    square = Square("cosines", ["a", "b"], ["a", "b"], np.eye(2))
    (chart,) = figures_of(answer_of("cosine-clip-b32", matrix=square))
    assert chart.name == "cosine-clip-b32-matrix"


def test_rows_without_an_average_have_no_figure():
    assert figures_of(answer_of("multi-task-resnet50-nyuv2", Line("ties", {}, {"depth": Value(1.0)}, {}, {}))) == []


def test_the_page_holds_table_figures_claims_and_what_is_missing_and_loads_nothing():
    found = answer_of(
        "multi-task-clip-b32", line("ties", 60.0, 72.2), failed={"<b>smile</b>": "k is above the rank & wrong"}
    )
    page = as_html(found, figures_of(found))
    assert '<th scope="row">ties</th><td>60.0 (72.2)</td><td class="note"></td>' in page
    assert page.count("<svg") == 1
    assert "&lt;b&gt;smile&lt;/b&gt;: k is above the rank &amp; wrong" in page
    assert "<script" not in page
    assert "default-src 'none'" in page
