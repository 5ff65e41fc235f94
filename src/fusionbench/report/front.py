"""The front that models of many preferences span: the score of one task against that of another."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusionbench.report.labels import short
from fusionbench.report.plots import COLOURS, MARKERS, REFERENCE_STYLE, STYLE, Chart, as_shapes, literal
from fusionbench.report.tables import Column, Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

EQUAL = "equal"
"""Label of a variant in which all tasks are preferred alike."""
MOST_TASKS = 3
"""Tasks up to which every pair has a panel of its own."""


@dataclass(frozen=True, slots=True)
class Front:
    """Models of one run, each made for a preference over the tasks.

    Attributes:
        name: of the run, in figures.
        columns: the tasks' columns in the table, in the order of a preference's entries.
        preferences: of each model, which sum to 1.
        values: `(models, tasks)`, in the unit that is printed.
        others: rows of other runs with a score on all these tasks.
    """

    name: str
    columns: tuple[int, ...]
    preferences: tuple[tuple[float, ...], ...]
    values: tuple[tuple[float, ...], ...]
    others: tuple[Row, ...]


def fronts_of(table: Table) -> list[Front]:
    """Return the fronts among the rows: runs with variants that preferences over two or more tasks label."""
    columns = [index for index, column in enumerate(table.columns) if column.kind == "task"]
    runs: dict[str, list[Row]] = {}
    for row in table.rows:
        runs.setdefault(row.entry.run.report.identity, []).append(row)
    found = []
    for identity, rows in runs.items():
        seen = [
            index
            for index in columns
            if (score := rows[0].entry.variant.tasks.get(table.columns[index].task)) is not None and score.seen
        ]
        points = {preference: row for row in rows if (preference := _preference(row, len(seen))) is not None}
        if len(seen) < 2 or len(points) < 2:
            continue
        others = [row for other, group in runs.items() if other != identity for row in group]
        ordered = sorted(points, reverse=True)
        values = tuple(_values(points[preference], seen, table.columns) for preference in ordered)
        name = f"{rows[0].entry.method} {short(identity)}"
        complete = tuple(row for row in others if all(row.cells[index].value is not None for index in seen))
        found.append(Front(name, tuple(seen), tuple(ordered), values, complete))
    return found


def front_charts(table: Table) -> list[Chart]:
    """Return a figure of each front of a table: pairs of tasks, or for many tasks each score against its preference."""
    from matplotlib import style

    charts = []
    with style.context(STYLE):
        for front in fronts_of(table):
            few = len(front.columns) <= MOST_TASKS
            figure = _pairs(front, table) if few else _profiles(front, table)
            what = "tasks against each other" if few else "each task against its preference"
            count = len(front.preferences)
            caption = f"{table.title}: {front.name}, {what}, at {count} preferences."
            charts.append(Chart(f"front-{front.name.replace(' ', '-')}", caption, figure))
    return charts


def _preference(row: Row, count: int) -> tuple[float, ...] | None:
    """Return the preference that a variant's label names; None where it names none over so many tasks."""
    label = row.entry.variant.label or ""
    if label == EQUAL:
        return (1 / count,) * count if count else None
    try:
        entries = tuple(float(word) for word in label.split(","))
    except ValueError:
        return None
    return entries if len(entries) == count and abs(sum(entries) - 1) < 0.01 else None


def _values(row: Row, columns: Sequence[int], described: Sequence[Column]) -> tuple[float, ...]:
    found = [(row.cells[index].value, described[index].factor) for index in columns]
    return tuple(float("nan") if value is None else value * factor for value, factor in found)


def _pairs(front: Front, table: Table) -> "Figure":
    """Return one panel a pair of tasks; a line joins neighbouring preferences where there are only two tasks."""
    from matplotlib.figure import Figure

    pairs = list(itertools.combinations(range(len(front.columns)), 2))
    figure = Figure(figsize=(0.6 + 4.3 * len(pairs), 4.1), layout="constrained")
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    drawn = None
    for axes, (across, up) in zip(panels, pairs, strict=True):
        for number, row in enumerate(front.others):
            _other(axes, row, number, _values(row, front.columns, table.columns), across, up)
        points = [(values[across], values[up]) for values in front.values]
        if len(front.columns) == 2:
            axes.plot(*zip(*points, strict=True), color=COLOURS[0], linewidth=1.0, zorder=1.5)
        drawn = axes.scatter(
            *zip(*points, strict=True), c=[ray[across] for ray in front.preferences], cmap="cividis", vmin=0, vmax=1,
            s=42, edgecolors="white", linewidths=0.6, label=literal(front.name), zorder=2,
        )  # fmt: skip
        axes.set_xlabel(literal(_axis(table.columns[front.columns[across]])))
        axes.set_ylabel(literal(_axis(table.columns[front.columns[up]])))
        _colour_bar(figure, axes, drawn, table.columns[front.columns[across]].task)
    figure.suptitle(literal(f"{table.title}: {front.name}"))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3))
    return figure


def _other(axes: "Axes", row: Row, number: int, values: Sequence[float], across: int, up: int) -> None:
    colour = REFERENCE_STYLE[row.entry.method][0] if row.reference else COLOURS[1 + number % (len(COLOURS) - 1)]
    axes.scatter(
        values[across], values[up], marker=MARKERS[1 + number % (len(MARKERS) - 1)], color=colour, s=46,
        label=literal(row.label),
    )  # fmt: skip


def _colour_bar(figure: "Figure", axes: "Axes", drawn: "PathCollection", task: str) -> None:
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85)
    as_shapes(bar)
    bar.set_label(literal(f"preference for {task}"))
    bar.outline.set_visible(False)


def _profiles(front: Front, table: Table) -> "Figure":
    """Return one small panel a task: its score against the preference for it."""
    from matplotlib.figure import Figure

    count = len(front.columns)
    across = min(count, 4)
    down = -(-count // across)
    figure = Figure(figsize=(0.4 + 2.3 * across, 0.6 + 2.1 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True).flat
    for number, (axes, index) in enumerate(zip(panels, front.columns, strict=False)):
        axes.scatter(
            [ray[number] for ray in front.preferences], [values[number] for values in front.values], color=COLOURS[0],
            s=18, alpha=0.8,
        )  # fmt: skip
        axes.set_title(literal(table.columns[index].task), fontsize=9)
        axes.set_xlim(-0.05, 1.05)
    for axes in list(figure.axes)[count:]:
        axes.set_visible(False)
    figure.supxlabel("preference for the task")
    metrics = {_metric(table.columns[index]) for index in front.columns}
    figure.supylabel(literal(metrics.pop() if len(metrics) == 1 else "primary metric"))
    figure.suptitle(literal(f"{table.title}: {front.name}"))
    return figure


def _axis(column: Column) -> str:
    return f"{column.task}: {_metric(column)}"


def _metric(column: Column) -> str:
    return f"{column.metric} (%)" if column.factor == 100 else column.metric
