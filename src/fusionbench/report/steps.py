"""What runs wrote while they learned: losses, scores and coefficients along the steps, from their saved curves."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusionbench.report.plots import COLOURS, MARKERS, Chart, file_word, legend_below, literal
from fusionbench.report.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINING, CURVE = "training", "curve.jsonl"
"""Where a run keeps its curves: `training/<phase>/curve.jsonl`, one JSON object a line."""
SCORE = "validation"
MOST = len(COLOURS)
LABELS = {
    "loss": "loss",
    SCORE: "validation average (%)",
    "mean": "λ (mean and range)",
}
"""What is drawn, in this order, and the words of its axis."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What one run wrote in one phase.

    Attributes:
        row: the run's first row.
        points: step and values, in order.
    """

    row: Row
    points: tuple[tuple[int, Mapping[str, float]], ...]

    def along(self, metric: str) -> tuple[list[int], list[float]]:
        """Return the steps at which a metric was written, and its values."""
        kept = [(step, values[metric]) for step, values in self.points if metric in values]
        return [step for step, _ in kept], [value for _, value in kept]


def step_charts(table: Table) -> list[Chart]:
    """Return a chart for each phase of learning (adamerging, concrete, wemoe …), a line a run, at most six runs."""
    phases: dict[str, list[Trace]] = {}
    for row in _first_rows(table):
        for phase, trace in _traces(row):
            phases.setdefault(phase, []).append(trace)
    charts = []
    for phase, traces in phases.items():
        drawn = traces[:MOST]
        left = f" {len(drawn)} of {len(traces)} runs are drawn." if len(drawn) < len(traces) else ""
        caption = f"{table.title}: {phase} along its steps, as the runs wrote them.{left}"
        charts.append(Chart(f"steps-{file_word(phase)}", caption, _draw(table, phase, drawn)))
    return charts


def _first_rows(table: Table) -> Iterator[Row]:
    """Yield one row a run: the variants of a run share its curves."""
    seen: set[Path] = set()
    for row in table.rows:
        if row.entry.run.folder not in seen:
            seen.add(row.entry.run.folder)
            yield row


def _traces(row: Row) -> Iterator[tuple[str, Trace]]:
    for file in sorted((row.entry.run.folder / TRAINING).glob(f"*/{CURVE}")):
        points = tuple(_points(file))
        if len(points) >= 2:
            yield file.parent.name, Trace(row, points)


def _points(file: Path) -> Iterator[tuple[int, Mapping[str, float]]]:
    """Yield the points of a curve, without torch; a last line that was cut off is left out."""
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            point = json.loads(line)
        except json.JSONDecodeError:
            return
        yield int(point["step"]), point["metrics"]


def _draw(table: Table, phase: str, traces: Sequence[Trace]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = [metric for metric in LABELS if any(trace.along(metric)[0] for trace in traces)]
    figure = Figure(figsize=(4.9, 1.0 + 2.2 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    for axes, metric in zip(panels, shown, strict=True):
        for number, trace in enumerate(traces):
            _line(axes, trace, metric, COLOURS[number], MARKERS[number])
        axes.set_ylabel(LABELS[metric])
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_title(literal(f"{table.title}: {phase} along its steps"))
    legend_below(figure)
    return figure


def _line(axes: "Axes", trace: Trace, metric: str, colour: str, marker: str) -> None:
    steps, values = trace.along(metric)
    if not steps:
        return
    factor = 100.0 if metric == SCORE else 1.0
    # Markers tell runs apart without colour; one at each of hundreds of points would hide the line.
    axes.plot(
        steps, [factor * value for value in values], label=literal(trace.row.label), color=colour, linewidth=1.6,
        marker=marker, markersize=4, markevery=max(1, len(steps) // 10),
    )  # fmt: skip
    if metric == "mean":
        (_, low), (_, high) = trace.along("min"), trace.along("max")
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
