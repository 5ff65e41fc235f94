"""A named matrix as a picture: every cell with its number, names on both sides."""

import math
from typing import TYPE_CHECKING

import numpy as np

from fusionbench.report.analysis.square import Square
from fusionbench.report.plots import INK, STYLE, Chart, as_shapes, literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 0.5
"""Inches of a cell that shows a number."""
MANY = 24
"""Rows or columns from which on cells are too small for numbers."""
DARK = 0.6
"""Share of the scale from which on a cell is so dark that its number is written in white."""
ON_PALE = "#141416"
"""Colour of numbers on pale cells, also where the page is dark."""
LINE = 0.11
"""Inches that a line of the smallest names takes; where cells are narrower, names are left out between."""


def heatmap(name: str, square: Square) -> Chart:
    """Return a chart of a matrix; two-sided scales are blue to red about 0, one-sided ones white to blue.

    Args:
        name: stem of the file.
        square: the matrix, with its scale.
    """
    from matplotlib import style

    with style.context(STYLE):
        figure = _draw(square)
    return Chart(name, square.caption, figure)


def _draw(square: Square) -> "Figure":
    from matplotlib.figure import Figure

    rows, columns = square.values.shape
    small = max(rows, columns) > MANY
    width, height = (min(CELL, 9.0 / count) if small else CELL for count in (columns, rows))
    longest = max(len(name) for name in square.rows)
    figure = Figure(figsize=(width * columns + 0.085 * longest + 1.3, height * rows + 1.7), layout="constrained")
    axes = figure.add_subplot()
    low, high = _scale(square)
    two_sided = low < 0
    # Cells are shapes, not an image: a page may load none, and browsers smear the few pixels that it would have.
    shown = axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(square.values),
        vmin=low,
        vmax=high,
        cmap="RdBu_r" if two_sided else "Blues",
        edgecolors="face",
        linewidth=0.2,
    )
    axes.set_aspect("auto" if small else "equal")
    axes.invert_yaxis()
    across, size = _named(columns, width)
    names = [literal(square.columns[index]) for index in across]
    axes.set_xticks(across, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
    down, size = _named(rows, height)
    axes.set_yticks(down, [literal(square.rows[index]) for index in down], fontsize=size)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    if not small:
        for row in range(rows):
            for column in range(columns):
                colour = _ink(float(square.values[row, column]), max(abs(low), abs(high), 1e-300))
                axes.text(column, row, square.cell(row, column), ha="center", va="center", fontsize=7.5, color=colour)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    as_shapes(bar)
    if square.percent:
        from matplotlib.ticker import PercentFormatter

        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title(literal(square.caption), fontsize=9, wrap=True)
    return figure


def _ink(value: float, widest: float) -> str:
    """Return the colour of a cell's number: a page's own where the page's ground is seen, else one that stays."""
    if not math.isfinite(value):
        return INK
    return "white" if abs(value) / widest > DARK else ON_PALE


def _named(count: int, cell: float) -> tuple[range, int]:
    """Return which of so many cells of a size in inches are named, and in which size of letters."""
    return range(0, count, math.ceil(LINE / cell)), 9 if cell >= 2 * LINE else 6


def _scale(square: Square) -> tuple[float, float]:
    """Return the ends of the colour scale: those the matrix names, else those of its values."""
    finite = square.values[np.isfinite(square.values)]
    low = square.low if square.low is not None else float(finite.min(initial=0.0))
    high = square.high if square.high is not None else float(finite.max(initial=0.0))
    if low < 0:
        widest = max(abs(low), abs(high))
        return -widest, widest
    return low, high if high > low else low + 1.0
