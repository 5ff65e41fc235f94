"""What an interactive figure has of a drawn one: numbers, names, colours, axes."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure

from fusionbench.records import Run
from fusionbench.report.analysis import Square
from fusionbench.report.figures import charts_of
from fusionbench.report.heatmap import heatmap
from fusionbench.report.plots import Chart
from fusionbench.report.tables import table_of
from fusionbench.report.traces import figure_data

MakeRun = Callable[..., Run]


@pytest.fixture
def charts(mini_clip: list[Run]) -> dict[str, Chart]:
    return {chart.name: chart for chart in charts_of(table_of(mini_clip))}


def named(found: dict) -> dict[str, dict]:
    return {trace["name"]: trace for trace in found["data"]}


def test_a_curve_keeps_its_points_and_level_lines_span_the_panel(charts: dict[str, Chart]) -> None:
    found = figure_data(charts["curve-scale"].figure)
    traces = named(found)
    assert traces["task_arithmetic"]["x"] == [0.1, 0.2, 0.3, 0.5, 1.0]
    assert traces["task_arithmetic"]["y"] == pytest.approx([58.3, 66.2, 70.0, 63.7, 33.7])
    assert traces["task_arithmetic"]["line"]["color"] == "rgba(0,114,178,1.00)"
    assert traces["individual"]["y"] == pytest.approx([91.9, 91.9])
    low, high = traces["individual"]["x"]
    assert low < 0.1
    assert high > 1.0
    assert traces["individual"]["line"]["dash"] == "dash"
    assert found["layout"]["xaxis"]["title"]["text"] == "scale"
    assert found["layout"]["yaxis"]["title"]["text"] == "average accuracy (%)"


def test_bars_keep_heights_and_the_names_of_their_groups(charts: dict[str, Chart]) -> None:
    found = figure_data(charts["bars"].figure)
    first = found["data"][0]
    assert (first["type"], first["name"]) == ("bar", "pretrained")
    assert first["y"] == pytest.approx([44.1, 48.1, 62.1, 52.3, 49.3, 46.9, 46.8, 45.8, 49.425])
    assert found["layout"]["xaxis"]["ticktext"][-1] == "average"
    assert found["layout"]["xaxis"]["tickvals"] == list(range(9))


def test_a_radar_goes_round_its_tasks(charts: dict[str, Chart]) -> None:
    found = figure_data(charts["radar"].figure)
    trace = named(found)["pretrained"]
    assert (trace["type"], trace["theta"][0], trace["theta"][-1]) == ("scatterpolar", "mnist", "mnist")
    assert trace["r"][:2] == pytest.approx([44.1, 48.1])
    assert found["layout"]["polar"]["radialaxis"]["range"] == [0.0, 100.0]


def test_a_heat_map_keeps_values_scale_and_missing_cells() -> None:
    square = Square("λ", ["a", "b"], ["x", "y"], np.array([[0.5, np.nan], [-0.25, 0.0]]))
    found = figure_data(heatmap("h", square).figure)
    (trace,) = found["data"]
    assert trace["z"] == [[0.5, None], [-0.25, 0.0]]
    assert (trace["zmin"], trace["zmax"]) == (-0.5, 0.5)
    assert trace["hovertext"] == [["a, x: 0.5", "a, y: nan"], ["b, x: -0.25", "b, y: 0"]]
    # Blue is low and red is high, as in print: RdBu_r begins with #053061 and ends with #67001f.
    assert trace["colorscale"][0] == [0.0, "rgba(5,48,97,1.00)"]
    assert trace["colorscale"][-1] == [1.0, "rgba(103,0,31,1.00)"]
    assert found["layout"]["xaxis"]["ticktext"] == ["x", "y"]
    assert found["layout"]["yaxis"]["ticktext"] == ["a", "b"]
    assert found["layout"]["yaxis"]["autorange"] == "reversed"


def test_error_bars_bands_and_points_are_taken_over() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.errorbar([1.0, 2.0], [3.0, 4.0], yerr=[0.5, 0.25], label="up")
    axes.errorbar([1.0], [1.0], xerr=[0.125], label="across", linestyle="")
    axes.fill_between([0.0, 1.0], [0.0, 0.0], [2.0, 3.0], color="#0072b2", alpha=0.5)
    axes.scatter([5.0], [6.0], label="point")
    traces = named(figure_data(figure))
    assert traces["up"]["error_y"]["array"] == pytest.approx([0.5, 0.25])
    assert (traces["up"]["x"], traces["up"]["y"]) == ([1.0, 2.0], [3.0, 4.0])
    assert traces["across"]["error_x"]["array"] == pytest.approx([0.125])
    assert "error_y" not in traces["across"]
    assert (traces["point"]["x"], traces["point"]["y"]) == ([5.0], [6.0])
    assert traces[""]["fill"] == "toself"
    assert traces[""]["fillcolor"] == "rgba(0,114,178,0.50)"
    assert (min(traces[""]["y"]), max(traces[""]["y"])) == (0.0, 3.0)


def test_panels_share_a_legend_and_have_their_own_place() -> None:
    figure = Figure(layout="constrained")
    top, below = figure.subplots(2, sharex=True)
    for axes in (top, below):
        axes.plot([1.0, 2.0], [1.0, 2.0], label="ties")
    below.set_yscale("log")
    found = figure_data(figure)
    assert [trace["showlegend"] for trace in found["data"]] == [True, False]
    assert [trace["yaxis"] for trace in found["data"]] == ["y", "y2"]
    first, second = (found["layout"][name]["domain"] for name in ("yaxis", "yaxis2"))
    assert first[0] > second[1]
    assert found["layout"]["yaxis2"]["type"] == "log"
    assert found["layout"]["xaxis"]["showticklabels"] is False
    assert "showticklabels" not in found["layout"]["xaxis2"]


def test_two_titles_stand_above_their_panels() -> None:
    figure = Figure(layout="constrained")
    for axes, title in zip(figure.subplots(1, 2), ("here", "printed"), strict=True):
        axes.plot([1.0], [1.0])
        axes.set_title(title, loc="left")
    layout = figure_data(figure)["layout"]
    assert [note["text"] for note in layout["annotations"]] == ["here", "printed"]
    assert layout["title"]["text"] == ""


def test_names_are_plain_text_and_all_is_json(charts: dict[str, Chart]) -> None:
    figure = Figure()
    figure.add_subplot().plot([1.0], [1.0], label=r"<b>\$x\$</b> & y")
    assert figure_data(figure)["data"][0]["name"] == "&lt;b>$x$&lt;/b> &amp; y"
    for chart in charts.values():
        json.dumps(figure_data(chart.figure), allow_nan=False)
