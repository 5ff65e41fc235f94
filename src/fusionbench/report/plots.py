"""How figures of a table are drawn: radar, bars, curves, their style and their files. Matplotlib loads when used."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, cast

from fusionbench.records import FRACTION, write_whole
from fusionbench.report.choice import Picture
from fusionbench.report.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes

Kind = Literal["png", "pdf"]
INK = "#1b1b1d"
"""Colour of text and axes; the page replaces it by its own text colour."""
GRID = "#c9c9ce"
"""Colour of grid lines and frames; the page replaces it by its own line colour."""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#56b4e9", "#d55e00", "#cc79a7")
"""Okabe and Ito's palette without black and yellow: told apart in every common form of colour
blindness, and ordered so that neighbours differ in print without colour."""
MARKERS = ("o", "s", "^", "D", "v", "P")
INCHES_PER_LETTER = 0.078
LEGEND_SIZE = 8 / 9
"""Size of a letter in the legend, relative to the axes' labels."""
LEGEND_LETTERS = 50
"""Where a label is folded, so that one column fits the narrowest figure."""
REFERENCE_STYLE = {
    "pretrained": ("#9b9ba1", (0, (1, 1.5))),
    "individual": ("#77777c", (0, (6, 2))),
    "traditional_mtl": ("#a5844f", (0, (6, 2, 1, 2))),
}
STYLE = Path(__file__).with_name("print.mplstyle")


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn figure, the stem of its file name, and a sentence that says what it shows."""

    name: str
    caption: str
    figure: "Figure"


def radar(picture: Picture) -> "Figure":
    """Return a radar chart, one axis a task from 0 at the centre, one line a method."""
    outlines = [(row.label, values, style) for row, values, style in _styled(picture)]
    return outlined(outlines, picture.tasks, picture.top, f"{picture.title}: {picture.axis}")


def outlined(
    outlines: Sequence[tuple[str, Sequence[float], Mapping[str, Any]]], tasks: Sequence[str], top: float, title: str
) -> "Figure":
    """Return a radar chart.

    Args:
        outlines: of each line its name, its value of each task, and how it is drawn.
        tasks: names of the axes.
        top: end of each axis; its start is 0.
        title: above it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.9, 5.0), layout="constrained")
    axes = cast("PolarAxes", figure.add_subplot(projection="polar"))
    angles = [2 * math.pi * index / len(tasks) for index in range(len(tasks))]
    for name, values, style in outlines:
        closed = [*values, values[0]]
        axes.plot([*angles, 0.0], closed, label=literal(name), markersize=4, linewidth=1.6, **style)
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    axes.set_xticks(angles, [literal(task) for task in tasks])
    for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
        side = math.sin(angle)
        label.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
    axes.set_ylim(0, top)
    axes.set_rlabel_position(180 / len(tasks))
    axes.tick_params(axis="y", labelsize=7, labelcolor=REFERENCE_STYLE["individual"][0])
    axes.set_title(literal(title), pad=18)
    legend_below(figure)
    return figure


def bars(picture: Picture) -> "Figure":
    """Return grouped bars, one group a task and one for the average, one bar a method."""
    from matplotlib.figure import Figure

    groups = [*picture.tasks, *(["average"] if picture.averages else [])]
    breadth = max(4.9, 1.1 * len(groups))
    figure = Figure(figsize=(breadth, 3.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.84 / len(picture.rows)
    for index, (row, values, style) in enumerate(_styled(picture)):
        heights = [*values, *([picture.averages[index]] if picture.averages else [])]
        places = [group + (index - (len(picture.rows) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, heights, width * 0.94, label=literal(row.label), color=style["color"])
    axes.set_xticks(range(len(groups)), [literal(group) for group in groups])
    axes.set_ylim(0, picture.top)
    axes.set_ylabel(literal(picture.axis))
    axes.grid(axis="x", visible=False)
    axes.set_title(literal(picture.title))
    _slant_long_names(axes, groups, breadth)
    legend_below(figure)
    return figure


def curve(table: Table, parameter: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> "Figure":
    """Return the average against one parameter, a line a method, with the reference rows as level lines.

    Args:
        table: where the reference rows are taken from.
        parameter: name of the parameter, the label of the x axis.
        lines: points `(value of the parameter, average in percent)` by method.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.9, 3.6), layout="constrained")
    axes = figure.add_subplot()
    level_lines(axes, table)
    for number, (method, points) in enumerate(lines.items()):
        x, y = zip(*points, strict=True)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot(x, y, label=literal(method), markersize=5, linewidth=1.6, color=colour, marker=marker)
    values = [x for points in lines.values() for x, _ in points]
    if min(values) > 0 and max(values) / min(values) >= 100:
        axes.set_xscale("log")
    axes.set_xlabel(literal(parameter))
    axes.set_ylabel(literal(average_name(table)))
    axes.set_title(literal(f"{table.title}: {average_name(table)} against {parameter}"))
    legend_below(figure)
    return figure


def save(chart: Chart, folder: Path, kind: Kind = "png", *, prefix: str = "") -> Path:
    """Write a chart as .png (150 dpi) or .pdf into `folder` and return the path; equal charts give equal bytes.

    Raises:
        OutputError: where the file cannot be written.
    """
    from matplotlib import style

    drawn = io.BytesIO()
    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}
    with style.context(STYLE):
        chart.figure.savefig(drawn, format=kind, metadata=undated[kind], facecolor="white")
    return write_whole(folder / f"{prefix}{chart.name}.{kind}", drawn.getvalue())


def file_word(text: str) -> str:
    """Return `text` with everything that does not belong into a file name turned into hyphens."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def as_shapes(bar: "Colorbar") -> None:
    """Draw a colour bar as shapes, which Matplotlib makes an image of that no page would load."""
    if bar.solids is not None:
        bar.solids.set_rasterized(False)
        bar.solids.set_edgecolor("face")


def literal(text: str) -> str:
    """Return `text` so that matplotlib prints it as it stands: a pair of dollar signs would make it a formula."""
    return text.replace("$", r"\$")


def _styled(picture: Picture) -> list[tuple[Row, Sequence[float], dict[str, Any]]]:
    """Return each row with its values and the colour, marker and dashes of its line."""
    styled: list[tuple[Row, Sequence[float], dict[str, Any]]] = []
    methods = 0
    for row, values in zip(picture.rows, picture.values, strict=True):
        if row.reference:
            colour, dashes = REFERENCE_STYLE[row.entry.method]
            styled.append((row, values, {"color": colour, "linestyle": dashes}))
        else:
            style = {"color": COLOURS[methods % len(COLOURS)], "marker": MARKERS[methods % len(MARKERS)]}
            styled.append((row, values, style))
            methods += 1
    return styled


def level_lines(axes: "Axes", table: Table) -> None:
    """Draw the reference rows' averages as level lines."""
    for row in table.rows:
        if row.reference and table.summary is not None and (level := row.cells[table.summary].value) is not None:
            colour, dashes = REFERENCE_STYLE[row.entry.method]
            axes.axhline(100 * level, label=literal(row.label), color=colour, linestyle=dashes, linewidth=1.4)


def average_name(table: Table) -> str:
    """Return what the column that sums up is called on an axis, with its unit."""
    if table.column("average") is None:
        return "normalized score (%)"
    metrics = {column.metric for column in table.columns if column.kind == "task" and column.unit == FRACTION}
    return f"average {metrics.pop()} (%)" if len(metrics) == 1 else "average (%)"


def _slant_long_names(axes: "Axes", names: Sequence[str], width: float) -> None:
    """Turn the names below groups that are too narrow for them; `width` of the figure is in inches."""
    room = (width - 0.7) / len(names)
    if max(len(name) for name in names) * INCHES_PER_LETTER > room:
        for label in axes.get_xticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")


def legend_below(figure: "Figure") -> None:
    """Add a legend below the axes, in as many columns as its longest line leaves room for."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    folded = [fill(label, LEGEND_LETTERS) for label in labels]
    longest = max(len(line) for label in folded for line in label.splitlines())
    columns = int(figure.get_size_inches()[0] / (longest * INCHES_PER_LETTER * LEGEND_SIZE + 0.55))
    figure.legend(handles, folded, loc="outside lower center", ncols=min(max(columns, 1), 4))
