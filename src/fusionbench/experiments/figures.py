"""What an answer looks like: averages beside the printed ones, curves along what is varied, a matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusionbench.experiments.answer import Line, Value, own_name
from fusionbench.experiments.published import AVERAGE
from fusionbench.experiments.reproduce import Answer
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
        return [heatmap(f"{name}-matrix", answer.matrix)]
    with style.context(STYLE):
        if answer.experiment.vary:
            said = f"{answer.experiment.title}; {_place(answer)}, and as printed where a paper has the numbers."
            said += " Bars are standard errors over seeds." if len(answer.seeds) > 1 else ""
            return [Chart(f"{name}-curve", said, _curves(answer))]
        if any(AVERAGE in line.values for line in answer.lines):
            said = f"{answer.experiment.title}; averages {_place(answer)} and as printed, in the printed order."
            return [Chart(f"{name}-averages", said, _averages(answer))]
    return []


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
    axes.set_xlabel("average over the seen tasks (%); bars: standard error")
    axes.grid(axis="y", color=GRID, linewidth=0.4)
    axes.set_title(literal(answer.experiment.name))
    # Error bars are listed after lines, whatever was drawn first.
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2)
    return figure


def _curves(answer: Answer) -> "Figure":
    """Draw a line a method along what is varied, ours and, where the papers print them, theirs beside."""
    from matplotlib.figure import Figure

    rows: dict[str, list[Line]] = {}
    for line in answer.lines:
        rows.setdefault(line.label, []).append(line)
    printed = any(line.printed.get(AVERAGE) is not None for line in answer.lines)
    figure = Figure(figsize=(9.4 if printed else 4.9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2 if printed else 1, squeeze=False)[0]
    (key,) = answer.lines[0].varied
    texts = list(dict.fromkeys(line.varied[key] for line in answer.lines))
    numeric = all(map(_is_number, texts))
    for number, (label, lines) in enumerate(rows.items()):
        series = _Series(literal(label), number, texts, numeric)
        ours = {line.varied[key]: value for line in lines if (value := _shown(answer, line)) is not None}
        series.draw(panels[0], ours)
        theirs = {line.varied[key]: Value(mean) for line in lines if (mean := line.printed.get(AVERAGE)) is not None}
        if theirs:
            series.draw(panels[1], theirs)
    what = "average" if answer.experiment.shown == AVERAGE else "score of the first task"
    for axes, place in zip(panels, (_place(answer), f"printed, on {answer.experiment.suite['name']}"), strict=False):
        axes.set_xlabel(literal(key))
        axes.set_title(literal(place))
        if not numeric:
            axes.set_xticks(range(len(texts)), [literal(text) for text in texts], rotation=30, ha="right")
    panels[0].set_ylabel(f"{what} (%)")
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
