"""From a drawn Matplotlib figure to the data and layout of an interactive one: the same numbers, names and colours."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.container import BarContainer, ErrorbarContainer
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Trace = dict[str, Any]
SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"}
PIXELS = 96
"""Of an inch of the printed figure."""
COLORBAR = "<colorbar>"
HIDDEN = "_"
"""First letter of the labels that a legend leaves out."""


def figure_data(figure: "Figure") -> dict[str, Any]:
    """Return "data" and "layout" of an interactive figure, as plain values.

    Lines, bars, heat maps, error bars, points and bands are taken over, each panel in its place; a name stands in the
    legend once, and switches its traces of all panels.
    """
    figure.draw_without_rendering()
    height = float(figure.get_size_inches()[1]) * PIXELS
    layout: dict[str, Any] = {"height": max(360.0, height), "margin": {"t": 60, "r": 20}, "hovermode": "closest"}
    data: list[Trace] = []
    panels = [axes for axes in figure.axes if axes.get_label() != COLORBAR]
    for number, axes in enumerate(panels, start=1):
        if axes.name == "polar":
            data += _polar(axes, layout)
            continue
        suffix = "" if number == 1 else str(number)
        _place(axes, suffix, layout, alone=len(panels) == 1)
        data += [{**trace, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"} for trace in _traces(axes)]
    _name_once(data)
    titles = [title for axes in panels if (title := axes.get_title("left"))]
    layout["title"] = {"text": plain(titles[0]) if titles else "", "font": {"size": 14}}
    if len(titles) > 1:
        layout["annotations"] = [_heading(axes) for axes in panels]
        layout["title"]["text"] = ""
    return {"data": data, "layout": layout}


def plain(text: str) -> str:
    """Return a label without Matplotlib's escapes, safe where Plotly reads a few tags."""
    return text.replace(r"\$", "$").replace("&", "&amp;").replace("<", "&lt;")


def _heading(axes: "Axes") -> dict[str, Any]:
    box = axes.get_position()
    return {
        "text": plain(axes.get_title("left")), "x": box.x0, "y": box.y1, "xref": "paper", "yref": "paper",
        "showarrow": False, "xanchor": "left", "yanchor": "bottom",
    }  # fmt: skip


def _name_once(data: Sequence[Trace]) -> None:
    seen: set[str] = set()
    for trace in data:
        name = trace.get("name", "")
        trace["legendgroup"] = name
        trace["showlegend"] = bool(name) and name not in seen and trace.get("showlegend", True)
        seen |= {name} if trace["showlegend"] else set()


def _place(axes: "Axes", suffix: str, layout: dict[str, Any], *, alone: bool) -> None:
    """Add a panel's two axes to the layout."""
    box = axes.get_position()
    for letter, axis, ends in (("x", axes.xaxis, (box.x0, box.x1)), ("y", axes.yaxis, (box.y0, box.y1))):
        described: dict[str, Any] = {
            "title": {"text": plain(axis.get_label_text())},
            "anchor": f"{_other(letter)}{suffix}",
        }
        if not alone:
            described["domain"] = [float(end) for end in ends]
        if not axis.get_tick_params().get(f"label{'bottom' if letter == 'x' else 'left'}", True):
            # Panels that share an axis show its numbers once.
            described |= {"showticklabels": False, "matches": letter}
        if axis.get_scale() == "log":
            described["type"] = "log"
        names = [label.get_text() for label in axis.get_ticklabels()]
        if type(axis.get_major_locator()).__name__ == "FixedLocator" and any(names):
            described |= {"tickvals": [float(at) for at in axis.get_ticklocs()], "ticktext": list(map(plain, names))}
        low, high = axis.get_view_interval()
        if low > high:
            # A matrix's first row stands on top.
            described["autorange"] = "reversed" if letter == "y" else True
        layout[f"{letter}axis{suffix}"] = described


def _other(letter: str) -> str:
    return "y" if letter == "x" else "x"


def _traces(axes: "Axes") -> Iterator[Trace]:
    from matplotlib.collections import PathCollection, PolyCollection, QuadMesh
    from matplotlib.container import BarContainer, ErrorbarContainer

    of_containers: set[Any] = set()
    for container in axes.containers:
        if isinstance(container, BarContainer):
            yield _bars(container)
        elif isinstance(container, ErrorbarContainer):
            of_containers.add(container.lines[0])
            yield _with_errors(container)
    for collection in axes.collections:
        if isinstance(collection, PathCollection):
            points = np.asarray(collection.get_offsets())
            yield _named(collection.get_label(), {
                "type": "scatter", "mode": "markers", "x": points[:, 0].tolist(), "y": points[:, 1].tolist(),
                "marker": {"color": _colour(collection.get_facecolor()[0])},
            })  # fmt: skip
        elif isinstance(collection, QuadMesh):
            yield _cells(axes, collection)
        elif isinstance(collection, PolyCollection):
            yield from _bands(collection)
    for line in axes.lines:
        if line not in of_containers:
            yield _line(axes, line)


def _named(label: object, trace: Trace) -> Trace:
    text = str(label)
    return {**trace, "name": "" if text.startswith(HIDDEN) else plain(text)}


def _line(axes: "Axes", line: "Line2D") -> Trace:
    x, y = (np.asarray(values, float).tolist() for values in (line.get_xdata(), line.get_ydata()))
    if line.get_transform() != axes.transData:
        # A level line lies in the panel's own width, from 0 to 1.
        x = [float(end) for end in axes.get_xlim()]
    return _named(line.get_label(), {"type": "scatter", "x": x, "y": y, **_look(line)})


def _look(line: "Line2D") -> Trace:
    marked = SYMBOLS.get(str(line.get_marker()))
    drawn = line.get_linestyle() not in ("None", "", " ")
    mode = "+".join([*(["lines"] if drawn else []), *(["markers"] if marked else [])]) or "lines"
    colour = _colour(line.get_color())
    dash = "solid" if line.get_linestyle() == "-" else "dash"
    marker = {"color": colour, "symbol": marked, "size": 1.5 * line.get_markersize()}
    return {"mode": mode, "line": {"color": colour, "width": 2, "dash": dash}, "marker": marker}


def _with_errors(container: "ErrorbarContainer") -> Trace:
    line, _, bars = container.lines
    trace = {"type": "scatter", "x": np.asarray(line.get_xdata(), float).tolist(), **_look(line)}
    trace["y"] = np.asarray(line.get_ydata(), float).tolist()
    for letter, has, collection in zip(
        "xy", (container.has_xerr, container.has_yerr), (bars[:1], bars[-1:]), strict=True
    ):
        if has:
            ends = np.array([segment[:, "xy".index(letter)] for segment in collection[0].get_segments()])
            trace[f"error_{letter}"] = {"type": "data", "array": ((ends[:, 1] - ends[:, 0]) / 2).tolist()}
    return _named(container.get_label(), trace)


def _bars(container: "BarContainer") -> Trace:
    places = [float(bar.get_x() + bar.get_width() / 2) for bar in container.patches]
    widths = [float(bar.get_width()) for bar in container.patches]
    heights = [float(bar.get_height()) for bar in container.patches]
    colour = _colour(container.patches[0].get_facecolor())
    trace = {"type": "bar", "x": places, "y": heights, "width": widths, "marker": {"color": colour}}
    return _named(container.get_label(), trace)


def _bands(collection: Any) -> Iterator[Trace]:
    colour = _colour(collection.get_facecolor()[0])
    for path in collection.get_paths():
        x, y = np.asarray(path.vertices).T
        yield {
            "type": "scatter", "mode": "none", "x": x.tolist(), "y": y.tolist(), "fill": "toself", "fillcolor": colour,
            "hoverinfo": "skip", "name": "",
        }  # fmt: skip


def _cells(axes: "Axes", mesh: "QuadMesh") -> Trace:
    """Return a heat map; cells without a value stay empty."""
    values: NDArray[np.float64] = np.ma.filled(np.ma.asarray(mesh.get_array(), float), np.nan)
    low, high = mesh.get_clim()
    cells = [[None if np.isnan(value) else float(value) for value in row] for row in values]
    # Plotly's scales of these names are turned round, so the colours themselves are given.
    colours = mesh.get_cmap()
    scale = [[step / 8, _colour(colours(step / 8))] for step in range(9)]
    trace = {"type": "heatmap", "z": cells, "zmin": low, "zmax": high, "colorscale": scale, "name": ""}
    down, across = ([plain(label.get_text()) for label in axis.get_ticklabels()] for axis in (axes.yaxis, axes.xaxis))
    if (len(down), len(across)) == values.shape:
        texts = [[f"{row}, {column}: {value:.4g}" for column, value in zip(across, line, strict=True)]
                 for row, line in zip(down, values, strict=True)]  # fmt: skip
        trace |= {"hovertext": texts, "hoverinfo": "text"}
    return trace


def _polar(axes: "Axes", layout: dict[str, Any]) -> Iterator[Trace]:
    """Yield the lines of a radar chart, and add its axes to the layout."""
    names = [plain(label.get_text()) for label in axes.get_xticklabels()]
    low, high = axes.get_ylim()
    layout["polar"] = {
        "radialaxis": {"range": [float(low), float(high)]},
        "angularaxis": {"direction": "clockwise", "rotation": 90},
    }
    for line in axes.lines:
        values = np.asarray(line.get_ydata(), float).tolist()
        trace = {"type": "scatterpolar", "r": values, "theta": [*names, names[0]], **_look(line)}
        yield _named(line.get_label(), trace)


def _colour(colour: Any) -> str:
    """Return a colour as CSS writes it, with its opacity."""
    from matplotlib.colors import to_rgba

    red, green, blue, opacity = to_rgba(colour)
    return f"rgba({round(255 * red)},{round(255 * green)},{round(255 * blue)},{opacity:.2f})"
