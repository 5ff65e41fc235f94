"""Fronts of preferences: which rows make one, in which order, and what is drawn."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fusionbench.records import Score, TaskScore, Variant
from fusionbench.report import report
from fusionbench.report.front import front_charts, fronts_of
from fusionbench.report.svg import inline_svg
from fusionbench.report.tables import Table, table_of

POINTS = {"equal": (0.6, 0.7), "0,1": (0.5, 0.9), "0.25,0.75": (0.55, 0.8), "1,0": (0.8, 0.4)}


def with_points(run: Any, points: dict[str, tuple[float, ...]]) -> Any:
    """The run with a variant a point, each with the scores that are typed in."""
    (first,) = run.report.variants
    variants = []
    for label, values in points.items():
        scores = {name: {"accuracy": Score(value=v, n=100)} for name, v in zip(first.tasks, values, strict=True)}
        tasks = {name: TaskScore.of(found, seen=True) for name, found in scores.items()}
        variants.append(Variant.build(tasks, run.report.metrics, label=label, model=first.model))
    top = {"tasks": variants[0].tasks, "average": variants[0].average}
    changed = run.report.model_copy(update={"variants": tuple(variants), **top})
    changed.save(run.folder)
    return replace(run, report=changed)


@pytest.fixture
def table(make_accuracies: Any) -> Table:
    front = with_points(make_accuracies("front", "pwe_moe", {"a": 0.5, "b": 0.5}), POINTS)
    return table_of([front, make_accuracies("other", "ties", {"a": 0.7, "b": 0.7})])


def test_points_are_ordered_by_preference_and_equal_weights_among_them(table: Table) -> None:
    (front,) = fronts_of(table)
    assert front.preferences == ((1, 0), (0.5, 0.5), (0.25, 0.75), (0, 1))
    np.testing.assert_allclose(front.values, [(80, 40), (60, 70), (55, 80), (50, 90)])
    assert [row.entry.method for row in front.others] == ["ties"]


def test_runs_without_preferences_make_no_front(make_accuracies: Any) -> None:
    plain = make_accuracies("plain", "ties", {"a": 0.7, "b": 0.7})
    pool = with_points(make_accuracies("pool", "recombination", {"a": 0.7, "b": 0.7}), {"x": (1, 1), "y": (0, 1)})
    one = with_points(make_accuracies("one", "pwe_moe", {"a": 0.7}), {"equal": (0.1,), "1": (0.2,)})
    wrong = with_points(make_accuracies("wrong", "pwe_moe", {"a": 0.7, "b": 0.7}), {"0,2": (1, 1), "1,1": (0, 1)})
    assert fronts_of(table_of([plain, pool, wrong])) == []
    assert fronts_of(table_of([one])) == []


def test_two_tasks_are_drawn_against_each_other_in_one_panel(table: Table) -> None:
    (chart,) = front_charts(table)
    panel = chart.figure.axes[0]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("a: accuracy (%)", "b: accuracy (%)")
    line = panel.lines[0]
    assert list(line.get_xdata()) == pytest.approx([80, 60, 55, 50])
    assert "at 4 preferences" in chart.caption
    chart.figure.draw_without_rendering()


@pytest.mark.parametrize(("count", "panels"), [(3, 3), (5, 5)])
def test_more_tasks_have_a_panel_a_pair_or_a_panel_each(count: int, panels: int, make_accuracies: Any) -> None:
    corner = {",".join("1" if i == j else "0" for j in range(count)): (0.5,) * count for i in range(count)}
    names = {f"t{number}": 0.5 for number in range(count)}
    (chart,) = front_charts(table_of([with_points(make_accuracies("f", "pwe_moe", names), corner)]))
    visible = [axes for axes in chart.figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]
    assert len(visible) == panels
    chart.figure.draw_without_rendering()


def test_the_report_writes_the_figure(make_accuracies: Any, tmp_path: Any) -> None:
    run = with_points(make_accuracies("front", "pwe_moe", {"a": 0.5, "b": 0.5}), POINTS)
    paths = report([run.folder], ["png"], tmp_path / "out")
    assert any(path.name.startswith("front-pwe_moe-") for path in paths)


def test_a_front_has_no_image_which_a_page_would_not_load(table: Table) -> None:
    for number, chart in enumerate(front_charts(table)):
        assert "<image" not in inline_svg(chart, f"f{number}")
