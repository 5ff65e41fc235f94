"""What an answer looks like: averages beside the printed ones, curves along what is varied, a matrix."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fusionbench.experiments.answer import NORMALIZED, Line, Value, own_name
from fusionbench.experiments.model import FIRST
from fusionbench.experiments.outlines import outlines_of
from fusionbench.experiments.printed import cosines_of
from fusionbench.experiments.published import AVERAGE
from fusionbench.experiments.reproduce import Answer
from fusionbench.report.analysis import Square
from fusionbench.report.heatmap import heatmap
from fusionbench.report.plots import COLOURS, GRID, INK, MARKERS, STYLE, Chart, legend_below, literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figures_of(answer: Answer) -> list[Chart]:
    """Return the figures of an answer: one for a curve or a matrix; for a table the averages, where it has any."""
    from matplotlib import style

    name = answer.experiment.name
    if answer.matrix is not None:
        charts = [heatmap(f"{name}-matrix", answer.matrix)]
        if answer.which == "paper" and answer.experiment.kind == "cosine":
            charts += _printed_matrix(answer, answer.matrix)
        return charts
    with style.context(STYLE):
        if answer.experiment.vary:
            said = f"{answer.experiment.title}; {_place(answer)}, and as printed where a paper has the numbers."
            said += " Bars are standard errors over seeds." if len(answer.seeds) > 1 else ""
            return [Chart(f"{name}-curve", said, _curves(answer))]
        if any(AVERAGE in line.values for line in answer.lines):
            said = f"{answer.experiment.title}; averages {_place(answer)} and as printed, in the printed order."
            return [Chart(f"{name}-averages", said, _averages(answer)), *outlines_of(answer, _place(answer))]
    return []


def _printed_matrix(answer: Answer, ours: Square) -> list[Chart]:
    """Return the printed matrix of cosines on the scale of ours, where a text has one."""
    printed = cosines_of(str(answer.experiment.suite["name"]))
    if not printed:
        return []
    values = np.array([[printed.get((row, column), np.nan) for column in ours.columns] for row in ours.rows])
    square = replace(ours, title=f"{ours.title}, as printed", values=values)
    return [heatmap(f"{answer.experiment.name}-printed", square)]


def _place(answer: Answer) -> str:
    suite = answer.experiment.suite if answer.which == "paper" else answer.experiment.stand_in
    return f"on {suite['name']}"


def _averages(answer: Answer) -> "Figure":
    """Draw a row a method, best printed average on top: ours filled, the printed one hollow."""
    from matplotlib.figure import Figure

    lines = [line for line in answer.lines if AVERAGE in line.values]
    lines.sort(key=lambda line: line.printed.get(AVERAGE) or line.values[AVERAGE].value)
    figure = Figure(figsize=(6.0, 1.3 + 0.3 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(lines))
    ours = [line.values[AVERAGE] for line in lines]
    errors = [value.stderr or 0.0 for value in ours]
    axes.errorbar(
        [value.value for value in ours], places, xerr=errors, label=_place(answer), color=COLOURS[0], marker="o",
        markersize=6, linestyle="",
    )  # fmt: skip
    known = [(value, place) for place, line in zip(places, lines, strict=True) if (value := line.printed.get(AVERAGE))]
    if known:
        values, rows = zip(*known, strict=True)
        axes.plot(
            values, rows, label=f"printed, on {answer.experiment.suite['name']}", color=INK, marker="D", markersize=6,
            markerfacecolor="none", linestyle="",
        )  # fmt: skip
    axes.set_yticks(places, [literal(line.label) for line in lines])
    axes.set_xlabel(f"average over the seen tasks (%){'; bars: standard error' if any(errors) else ''}")
    axes.grid(axis="y", color=GRID, linewidth=0.4)
    axes.set_title(literal(answer.experiment.name))
    # Error bars are listed after lines, whatever was drawn first.
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2)
    return figure


class _Panel(NamedTuple):
    """One of the diagrams of a curve side by side: its heading, what its values are, and which a line has there."""

    title: str
    unit: str
    value: Callable[[Line], Value | None]


def _panels(answer: Answer) -> list[_Panel]:
    """Return what is drawn along what is varied: ours, ours divided by single models' scores, the printed values."""
    experiment = answer.experiment
    what = "average" if experiment.shown == AVERAGE else "score of the first task"
    found = [_Panel(_place(answer), f"{what} (%)", lambda line: _shown(answer, line))]
    if any(NORMALIZED in line.values for line in answer.lines):
        # The yardstick's own share is 100 % by definition.
        found.append(
            _Panel(
                f"{_place(answer)}, divided by {experiment.relative_to}",
                "normalized average (%)",
                lambda line: None if line.label == experiment.relative_to else line.values.get(NORMALIZED),
            )
        )
    if any(line.printed.get(AVERAGE) is not None for line in answer.lines):
        found.append(_Panel(f"printed, on {experiment.suite['name']}", "average (%)", _printed))
    return found


def _printed(line: Line) -> Value | None:
    mean = line.printed.get(AVERAGE)
    return None if mean is None else Value(mean)


def _curves(answer: Answer) -> "Figure":
    """Draw a line a method along what is varied: ours and, where the papers print them, theirs beside."""
    from matplotlib.figure import Figure

    rows: dict[str, list[Line]] = {}
    for line in answer.lines:
        rows.setdefault(line.label, []).append(line)
    panels = _panels(answer)
    figure = Figure(figsize=(0.4 + 4.5 * len(panels), 3.8), layout="constrained")
    (key,) = answer.lines[0].varied
    texts = list(dict.fromkeys(line.varied[key] for line in answer.lines))
    numeric = all(map(_is_number, texts))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (label, lines) in enumerate(rows.items()):
            found = {line.varied[key]: value for line in lines if (value := panel.value(line)) is not None}
            if found:
                _Series(literal(label), number, texts, numeric).draw(axes, found)
        axes.set_xlabel("number of merged experts" if FIRST in answer.experiment.vary else literal(key))
        axes.set_ylabel(panel.unit)
        axes.set_title(literal(panel.title))
        if not numeric:
            axes.set_xticks(range(len(texts)), [literal(text) for text in texts], rotation=30, ha="right")
    legend_below(figure)
    return figure


@dataclass(frozen=True, slots=True)
class _Series:
    """One method along the varied values, in its colour and with its marker."""

    label: str
    number: int
    texts: Sequence[str]
    numeric: bool

    def draw(self, axes: "Axes", found: Mapping[str, Value]) -> None:
        """Draw the values, with bars where they are means over seeds."""
        kept = [text for text in self.texts if text in found]
        values = [found[text] for text in kept]
        errors = [value.stderr or 0.0 if value.seeds > 1 else 0.0 for value in values]
        axes.errorbar(
            [float(text) if self.numeric else self.texts.index(text) for text in kept],
            [value.value for value in values],
            yerr=errors if any(errors) else None,
            label=self.label,
            color=COLOURS[self.number % len(COLOURS)],
            marker=MARKERS[self.number % len(MARKERS)],
            linewidth=1.6,
            markersize=5,
        )


def _shown(answer: Answer, line: Line) -> Value | None:
    """Return the value that the figure shows of a line: its average, or the first merged expert's own task."""
    if answer.experiment.shown == AVERAGE:
        return line.values.get(AVERAGE)
    row = next(row for row in answer.experiment.rows if row.label == line.label)
    first = (row.part if answer.which == "paper" else row.stand_in_part)["experts"][0]
    return line.values.get(own_name(answer.experiment, first))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
