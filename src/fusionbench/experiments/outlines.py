"""The radar chart of an answer: the best fused rows and the yardsticks on each task (arXiv:2406.03280, figure 4)."""

from typing import Any

from fusionbench.experiments.answer import Line, own_name
from fusionbench.experiments.printed import UNSEEN
from fusionbench.experiments.published import AVERAGE
from fusionbench.experiments.rendering import columns_of
from fusionbench.experiments.reproduce import Answer
from fusionbench.report.plots import COLOURS, MARKERS, REFERENCE_STYLE, Chart, outlined
from fusionbench.report.tables import REFERENCES

FEWEST = 3
"""Tasks from which on an outline has an area."""


def outlines_of(answer: Answer, place: str) -> list[Chart]:
    """Return the radar chart of a table's rows, of as many fused ones as there are colours; none of two tasks.

    A task is an axis where every row has a share (in %) of it; rows without an average are left out.

    Args:
        answer: of the kind table.
        place: which suite it was run on, in words.
    """
    methods = {row.label: str(row.method["name"]) for row in answer.experiment.rows}
    lines = [line for line in answer.lines if AVERAGE in line.values]
    columns = [column for column in columns_of(answer) if column not in (AVERAGE, UNSEEN)]
    tasks = {column: own for column in columns if _is_share(own := own_name(answer.experiment, column), lines)}
    if len(tasks) < FEWEST or not lines:
        return []
    fused = sorted((line for line in lines if methods[line.label] not in REFERENCES), key=_average, reverse=True)
    kept = [line for line in lines if methods[line.label] in REFERENCES] + fused[: len(COLOURS)]
    styles: dict[str, dict[str, Any]] = {
        line.label: {"color": COLOURS[number], "marker": MARKERS[number]}
        for number, line in enumerate(fused[: len(COLOURS)])
    }
    for line in kept:
        if methods[line.label] in REFERENCES:
            colour, dashes = REFERENCE_STYLE[methods[line.label]]
            styles[line.label] = {"color": colour, "linestyle": dashes}
    drawn = [(line.label, [line.values[own].value for own in tasks.values()], styles[line.label]) for line in kept]
    left = f" The {len(COLOURS)} best of {len(fused)} fused rows are drawn." if len(fused) > len(COLOURS) else ""
    said = f"{answer.experiment.title}; each task {place}, in %.{left}"
    return [Chart(f"{answer.experiment.name}-radar", said, outlined(drawn, list(tasks), 100.0, f"score {place} (%)"))]


def _average(line: Line) -> float:
    return line.values[AVERAGE].value


def _is_share(task: str, lines: list[Line]) -> bool:
    return all(task in line.values and 0 <= line.values[task].value <= 100 for line in lines)
