"""Figures and page of an answer: what is drawn, from lines that are typed in here."""

import numpy as np

from fusionbench.experiments.answer import Line, Value
from fusionbench.experiments.figures import figures_of
from fusionbench.experiments.model import load_experiment
from fusionbench.experiments.page import as_html
from fusionbench.experiments.reproduce import Answer
from fusionbench.report.analysis import Square
from fusionbench.report.tables import REFERENCES


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
    assert axes.get_xlabel() == "average over the seen tasks (%); bars: standard error"


def test_bars_that_are_not_there_are_not_spoken_of():
    (chart,) = figures_of(answer_of("multi-task-clip-b32", line("ties", 60.0, 72.2), line("individual", 90.0, 90.3)))
    assert chart.figure.axes[0].get_xlabel() == "average over the seen tasks (%)"


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


def test_scores_divided_by_those_of_single_models_have_a_panel_of_their_own():
    def at(label: str, count: str, average: float, share: float) -> Line:
        return Line(label, {"experts": count}, {"average": Value(average), "normalized": Value(share)}, {}, {})

    found = answer_of(
        "number-of-tasks-t5-base",
        at("individual", "1", 80.0, 100.0), at("individual", "2", 70.0, 100.0),
        at("ties", "1", 80.0, 100.0), at("ties", "2", 63.0, 91.0),
    )  # fmt: skip
    (chart,) = figures_of(found)
    absolute, shares = chart.figure.axes
    assert [list(drawn.get_ydata()) for drawn in absolute.lines] == [[80.0, 70.0], [80.0, 63.0]]
    assert [list(drawn.get_ydata()) for drawn in shares.lines] == [[100.0, 91.0]]
    assert (absolute.get_ylabel(), shares.get_ylabel()) == ("average (%)", "normalized average (%)")
    assert shares.get_title("left") == "on mini/gpt2, divided by individual"
    assert shares.get_xlabel() == "number of merged experts"
    # A method keeps its colour from panel to panel.
    assert shares.lines[0].get_color() == absolute.lines[1].get_color()


def test_a_matrix_is_a_heat_map():
    square = Square("cosines", ["a", "b"], ["a", "b"], np.eye(2))
    (chart,) = figures_of(answer_of("cosine-clip-b32", matrix=square))
    assert chart.name == "cosine-clip-b32-matrix"


def test_the_printed_cosines_are_a_heat_map_beside_ours_where_the_models_are_the_papers():
    names = ["sun397", "svhn", "mine"]
    square = Square("cosines", names, names, np.eye(3), 0.0, 1.0)
    answer = Answer(load_experiment("cosine-clip-b32"), "paper", None, (0,), matrix=square)
    ours, printed = figures_of(answer)
    assert (ours.name, printed.name) == ("cosine-clip-b32-matrix", "cosine-clip-b32-printed")
    assert "as printed" in printed.caption
    (cells,) = printed.figure.axes[0].collections
    np.testing.assert_array_equal(np.asarray(cells.get_array().filled(np.nan))[0], [1.0, 0.01, np.nan])


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


def test_a_table_has_a_radar_chart_of_its_best_fused_rows_and_the_yardsticks():
    def row(label: str, *values: float) -> Line:
        tasks = dict(zip(("a", "b", "c", "perplexity"), map(Value, values), strict=True))
        return Line(label, {}, {**tasks, "average": Value(sum(values[:3]) / 3)}, {}, {})

    labels = [row.label for row in load_experiment("multi-task-clip-b32").rows if row.method["name"] not in REFERENCES]
    fused = [row(label, 50.0 - number, 50.0, 50.0, 900.0) for number, label in enumerate(labels)]
    found = answer_of("multi-task-clip-b32", row("individual", 90.0, 80.0, 70.0, 4.0), *fused)
    _, chart = figures_of(found)
    assert chart.name == "multi-task-clip-b32-radar"
    (axes,) = chart.figure.axes
    # What is no share has no axis; the outline is closed.
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert list(axes.lines[0].get_ydata()) == [90.0, 80.0, 70.0, 90.0]
    assert [drawn.get_label() for drawn in axes.lines] == ["individual", *labels[:6]]
    assert f"The 6 best of {len(labels)} fused rows are drawn." in chart.caption
    assert len({drawn.get_color() for drawn in axes.lines}) == 7
    # Two tasks span no area.
    assert len(figures_of(answer_of("multi-task-clip-b32", *(Line(
        line.label, {}, {key: line.values[key] for key in ("a", "b", "average")}, {}, {}
    ) for line in fused)))) == 1  # fmt: skip
