"""Quality against cost: which rows are drawn, where, and on which axis."""

from collections.abc import Callable

import numpy as np

from fusionbench.records import Run
from fusionbench.report.plots import COLOURS, MARKERS
from fusionbench.report.tables import table_of
from fusionbench.report.tradeoff import tradeoffs_of

MakeRun = Callable[..., Run]


def points(chart) -> dict[str, tuple[float, float]]:
    lines = {line.get_label(): line for line in chart.figure.axes[0].lines}
    return {
        name: (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for name, line in lines.items()
        if line.get_linestyle() == "None"
    }


def test_each_method_stands_at_its_best_row(mini_clip: list[Run]) -> None:
    size, time = tradeoffs_of(table_of(mini_clip))
    # 147,584 parameters and two seconds of fusion each; task arithmetic is best at 0.3.
    assert points(time)["task_arithmetic"] == (2.0, 70.0)
    x, y = points(size)["simple_average"]
    np.testing.assert_allclose((x, y), (0.147584, 61.575))
    assert set(points(size)) == {"simple_average", "adamerging", "task_arithmetic"}
    axes = size.figure.axes[0]
    assert axes.get_xlabel() == "parameters of the fused model (millions)"
    assert axes.get_xlim()[0] == 0
    levels = [line.get_label() for line in axes.lines if line.get_linestyle() != "None"]
    assert levels == ["pretrained", "individual"]


def test_times_far_apart_are_on_a_logarithmic_axis(make_accuracies: MakeRun) -> None:
    runs = [make_accuracies(name, name, {"x": 0.5}) for name in ("ties", "dare")]
    for run, seconds in zip(runs, (1.0, 20.0), strict=True):
        run.info.phases["fuse"] = seconds
    _, time = tradeoffs_of(table_of(runs))
    assert time.figure.axes[0].get_xscale() == "log"


def test_one_method_has_nothing_to_be_set_against(make_accuracies: MakeRun) -> None:
    runs = [make_accuracies(f"r{scale}", "ties", {"x": 0.5}, params={"scale": scale}) for scale in (1, 2)]
    assert tradeoffs_of(table_of(runs)) == []


def test_a_run_without_its_time_is_left_out(make_accuracies: MakeRun) -> None:
    runs = [make_accuracies(name, name, {"x": 0.5}) for name in ("ties", "dare", "della")]
    del runs[0].info.phases["fuse"]
    size, time = tradeoffs_of(table_of(runs))
    assert set(points(time)) == {"dare", "della"}
    assert set(points(size)) == {"ties", "dare", "della"}


def test_more_methods_than_colours_differ_in_their_markers(make_accuracies: MakeRun) -> None:
    runs = [make_accuracies(f"m{number}", f"m{number}", {"x": 0.5}) for number in range(len(COLOURS) + 6)]
    axes = tradeoffs_of(table_of(runs))[0].figure.axes[0]
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len(looks) == len(runs)
    assert {marker for _, marker in looks} == set(MARKERS)
