"""What a method's quality costs: the average against the size of the fused model and against the time of its fusion."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusionbench.report.plots import (
    COLOURS,
    MARKERS,
    Chart,
    average_name,
    file_word,
    legend_below,
    level_lines,
    literal,
)
from fusionbench.report.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = len(COLOURS) * len(MARKERS)
"""How many methods are told apart by colour and marker together."""
WIDE = 20
"""Ratio of the largest to the smallest cost from which on the axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One method with its average in percent and what it cost.

    Attributes:
        row: its best row.
        average: in percent.
        cost: millions of parameters, or seconds.
    """

    row: Row
    average: float
    cost: float


def tradeoffs_of(table: Table) -> list[Chart]:
    """Return a chart of the average against parameters and one against the seconds of fusion, where two rows have both.

    Each method stands with its best row; seconds are those of the phase `fuse`, adaptation included, on the machine
    that the run's record names.
    """
    charts = []
    for name, axis, costs in (
        ("parameters", "parameters of the fused model (millions)", list(_costs(table, _millions))),
        ("time", "time of the fusion (s)", list(_costs(table, _seconds))),
    ):
        if len({point.row.entry.method for point in costs}) >= 2:
            caption = f"{table.title}: {average_name(table)} against {axis}; each method with its best row."
            charts.append(Chart(f"average-against-{file_word(name)}", caption, _draw(table, axis, costs)))
    return charts


def _costs(table: Table, cost: Callable[[Row], float | None]) -> Iterator[Cost]:
    index = table.summary
    if index is None:
        return
    best: dict[str, Cost] = {}
    for row in table.rows:
        value, spent = row.cells[index].value, cost(row)
        if row.reference or value is None or spent is None or spent <= 0:
            continue
        point = Cost(row, 100 * value, spent)
        if row.entry.method not in best or best[row.entry.method].average < point.average:
            best[row.entry.method] = point
    yield from sorted(best.values(), key=lambda point: -point.average)[:MOST]


def _millions(row: Row) -> float | None:
    model = row.entry.variant.model
    return model.parameters / 1e6 if model else None


def _seconds(row: Row) -> float | None:
    info = row.entry.run.info
    return info.phases.get("fuse") if info else None


def _draw(table: Table, axis: str, points: Sequence[Cost]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.9, 3.6), layout="constrained")
    axes = figure.add_subplot()
    level_lines(axes, table)
    for number, point in enumerate(points):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        label = literal(point.row.entry.method)
        axes.plot([point.cost], [point.average], label=label, color=colour, marker=marker, markersize=7, linestyle="")
    costs = [point.cost for point in points]
    if max(costs) / min(costs) >= WIDE:
        axes.set_xscale("log")
    else:
        # From zero, so that models of nearly one size do not look far apart.
        axes.set_xlim(0, 1.1 * max(costs))
    axes.set_xlabel(axis)
    axes.set_ylabel(literal(average_name(table)))
    axes.set_title(literal(f"{table.title}: quality against cost"))
    legend_below(figure)
    return figure
