"""Curves that runs wrote while they learned, drawn from files written here."""

import json
from collections.abc import Callable

import pytest

from fusionbench.records import Run
from fusionbench.report.steps import step_charts
from fusionbench.report.tables import table_of

MakeRun = Callable[..., Run]


def write(run: Run, phase: str, points: list[tuple[int, dict[str, float]]], tail: str = "") -> None:
    place = run.folder / "training" / phase
    place.mkdir(parents=True)
    lines = [json.dumps({"step": step, "metrics": metrics}) for step, metrics in points]
    (place / "curve.jsonl").write_text("\n".join(lines) + "\n" + tail)


def lines_of(axes) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def test_loss_score_and_coefficients_have_a_panel_each(make_accuracies: MakeRun) -> None:
    run = make_accuracies("a", "adamerging", {"x": 0.5})
    spread = {"min": 0.2, "mean": 0.3, "max": 0.5}
    points = [
        (1, {"loss": 4.0, **spread}),
        (2, {"loss": 3.0, "validation": 0.25, **spread}),
        (3, {"loss": 2.0, **spread}),
    ]
    write(run, "adamerging", points)
    (chart,) = step_charts(table_of([run]))
    loss, score, factors = chart.figure.axes
    assert chart.name == "steps-adamerging"
    assert lines_of(loss) == {"adamerging": ([1, 2, 3], [4.0, 3.0, 2.0])}
    assert lines_of(score) == {"adamerging": ([2], [25.0])}
    assert lines_of(factors) == {"adamerging": ([1, 2, 3], [0.3, 0.3, 0.3])}
    assert [axes.get_ylabel() for axes in chart.figure.axes] == [
        "loss", "validation average (%)", "λ (mean and range)",
    ]  # fmt: skip
    assert factors.get_xlabel() == "step"
    (band,) = factors.collections
    ends = [value for _, value in band.get_paths()[0].vertices]
    assert (min(ends), max(ends)) == (0.2, 0.5)


def test_phases_have_figures_of_their_own_and_six_runs_are_drawn(make_accuracies: MakeRun) -> None:
    runs = [make_accuracies(f"r{number}", "wemoe", {"x": 0.5}, params={"batch": number}) for number in range(7)]
    for run in runs:
        write(run, "wemoe", [(1, {"loss": 1.0}), (2, {"loss": 0.5})])
    write(runs[0], "other", [(1, {"loss": 1.0}), (2, {"loss": 0.5})])
    other, wemoe = step_charts(table_of(runs))
    assert (other.name, wemoe.name) == ("steps-other", "steps-wemoe")
    assert len(wemoe.figure.axes[0].lines) == 6
    assert "6 of 7 runs are drawn" in wemoe.caption
    assert len(other.figure.axes) == 1


@pytest.mark.parametrize("tail", ['{"step": 3, "metr', ""])
def test_a_line_that_was_cut_off_is_left_out(make_accuracies: MakeRun, tail: str) -> None:
    run = make_accuracies("a", "wemoe", {"x": 0.5})
    write(run, "wemoe", [(1, {"loss": 1.0}), (2, {"loss": 0.5})], tail)
    (chart,) = step_charts(table_of([run]))
    assert lines_of(chart.figure.axes[0]) == {"wemoe": ([1, 2], [1.0, 0.5])}


def test_a_run_that_learned_nothing_has_no_curve(make_accuracies: MakeRun) -> None:
    run = make_accuracies("a", "ties", {"x": 0.5})
    assert step_charts(table_of([run])) == []
    write(run, "one", [(1, {"loss": 1.0})])
    assert step_charts(table_of([run])) == []
