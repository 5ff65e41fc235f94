"""Figures: what is drawn, with which words, and the files."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionbench.errors import OutputError
from fusionbench.records import Run
from fusionbench.report.figures import charts_of
from fusionbench.report.plots import COLOURS, Chart, save
from fusionbench.report.tables import table_of

MakeRun = Callable[..., Run]


@pytest.fixture
def charts(mini_clip: list[Run]) -> dict[str, Chart]:
    return {chart.name: chart for chart in charts_of(table_of(mini_clip))}


def test_a_suite_with_a_sweep_has_radar_bars_curve_and_costs(charts: dict[str, Chart]) -> None:
    assert list(charts) == ["radar", "bars", "curve-scale", "average-against-parameters", "average-against-time"]
    assert charts["radar"].caption == (
        "mini/clip (small): accuracy (%) by task. 3 of 7 rows are drawn: the best of each method by average."
    )


def test_two_tasks_make_no_radar(make_accuracies: MakeRun) -> None:
    table = table_of([make_accuracies("a", "ties", {"x": 0.5, "y": 0.5})])
    assert [chart.name for chart in charts_of(table)] == ["bars"]


def test_the_radar_has_one_closed_line_a_method(charts: dict[str, Chart]) -> None:
    (axes,) = charts["radar"].figure.axes
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    assert list(lines) == [*("pretrained", "individual", "simple_average", "adamerging", "task_arithmetic (scale=0.3)")]
    np.testing.assert_allclose(lines["pretrained"], [44.1, 48.1, 62.1, 52.3, 49.3, 46.9, 46.8, 45.8, 44.1])
    assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["mnist", "digits"]
    assert axes.get_ylim() == (0, 100)


def test_the_bars_end_with_the_average_and_start_at_zero(charts: dict[str, Chart]) -> None:
    (axes,) = charts["bars"].figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()][-1] == "average"
    assert axes.get_ylabel() == "accuracy (%)"
    assert axes.get_ylim() == (0, 100)
    heights = [bar.get_height() for bar in axes.containers[0]]
    np.testing.assert_allclose(heights, [44.1, 48.1, 62.1, 52.3, 49.3, 46.9, 46.8, 45.8, 49.425])


def test_the_curve_names_its_axes_and_draws_references_as_level_lines(charts: dict[str, Chart]) -> None:
    (axes,) = charts["curve-scale"].figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("scale", "average accuracy (%)", "linear")
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["pretrained", "individual", "task_arithmetic"]
    np.testing.assert_allclose(np.asarray(lines["individual"].get_ydata()), [91.9, 91.9])
    np.testing.assert_allclose(np.asarray(lines["task_arithmetic"].get_xdata()), [0.1, 0.2, 0.3, 0.5, 1.0])
    np.testing.assert_allclose(np.asarray(lines["task_arithmetic"].get_ydata()), [58.3, 66.2, 70.0, 63.7, 33.7])


def test_rates_over_two_orders_of_magnitude_are_drawn_on_a_logarithmic_axis(make_accuracies: MakeRun) -> None:
    runs = [make_accuracies(f"r{rate}", "adamerging", {"x": 0.5}, params={"rate": rate}) for rate in (1e-4, 1e-2)]
    charts = {chart.name: chart for chart in charts_of(table_of(runs))}
    assert charts["curve-rate"].figure.axes[0].get_xscale() == "log"


def test_dollar_signs_in_names_are_printed_as_they_stand(make_accuracies: MakeRun) -> None:
    names = {"$a_{b}$": 0.5, "c$": 0.5, r"$\frac$": 0.5}
    runs = [make_accuracies(f"r{scale}", "ties", names, params={"$s$": scale}) for scale in (1, 2)]
    charts = charts_of(table_of(runs))
    assert [chart.name for chart in charts] == ["radar", "bars", "curve-s"]
    for chart in charts:
        chart.figure.draw_without_rendering()


def test_the_legend_lies_outside_the_axes(charts: dict[str, Chart]) -> None:
    for chart in charts.values():
        chart.figure.draw_without_rendering()
        (legend,) = chart.figure.legends
        (axes,) = chart.figure.axes
        assert legend.get_window_extent().y1 <= axes.get_window_extent().y0


def test_a_legend_of_long_labels_stays_inside_the_figure(make_accuracies: MakeRun) -> None:
    values = {"x": 0.5, "y": 0.25, "z": 0.75}
    for words in ("adamerging-like method", "a very long label " * 6):
        runs = [
            make_accuracies(f"{len(words)}-{rate}", "ties", values, params={"kind": words, "rate": rate})
            for rate in (0.001, 0.01, 0.1)
        ]
        runs.append(make_accuracies(f"{len(words)}-other", "ties", values, params={"kind": "plain", "rate": 1}))
        for chart in charts_of(table_of(runs)):
            chart.figure.draw_without_rendering()
            box = chart.figure.legends[0].get_window_extent()
            assert 0 <= box.x0 < box.x1 <= chart.figure.bbox.width


def test_a_png_has_150_dots_an_inch_and_the_same_bytes_each_time(charts: dict[str, Chart], tmp_path: Path) -> None:
    chart = charts["bars"]
    path = save(chart, tmp_path / "new", prefix="x-")
    assert path == tmp_path / "new" / "x-bars.png"
    with Image.open(path) as image:
        width, height = chart.figure.get_size_inches()
        assert image.size == (round(150 * width), round(150 * height))
    assert save(chart, tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_pdf_is_written_on_request_without_a_date(charts: dict[str, Chart], tmp_path: Path) -> None:
    content = save(charts["curve-scale"], tmp_path, "pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"CreationDate" not in content


def test_a_folder_that_cannot_be_made_is_an_error(charts: dict[str, Chart], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        save(charts["bars"], tmp_path / "file")


def test_neighbouring_colours_differ_in_grey() -> None:
    def grey(colour: str) -> float:
        red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    assert min(abs(grey(one) - grey(two)) for one, two in pairwise(COLOURS)) > 30
