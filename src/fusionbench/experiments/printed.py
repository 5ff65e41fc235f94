"""What the papers print for a row: its cells by our columns, and the averages that those cells really have."""

from collections.abc import Iterator, Mapping
from statistics import fmean

from fusionbench.errors import ConfigError
from fusionbench.experiments.model import Experiment, Row
from fusionbench.experiments.published import AVERAGE, Cell, cells
from fusionbench.experiments.published.provenance import printed_cosines
from fusionbench.report.analysis import Square

UNSEEN = "unseen_average"
OWN = "own"
MISPRINT = 0.1
"""Points by which a printed average may differ from that of its printed cells before a reader is told."""
COSINE = 0.015
"""By how much a cosine may differ from the printed one: half of its last digit, and 0.01."""


def printed_of(experiment: Experiment, row: Row, varied: Mapping[str, str]) -> dict[str, float | None]:
    """Return the printed value of each column of a row; None where a cell is in doubt or missing.

    Where several tables print a cell, the first sound one counts: the tables of the earlier text are cleaner. An
    average in doubt is replaced by the mean of the row's cells, where all of these are sound.
    """
    found: dict[str, float | None] = {}
    for cell in _cells_of(experiment, row, varied):
        key = _column(cell)
        if found.get(key) is None:
            found[key] = cell.value if cell.sound else None
    means = recomputed_of(experiment, row, varied)
    return {name: means.get(name) if value is None else value for name, value in found.items()}


def recomputed_of(experiment: Experiment, row: Row, varied: Mapping[str, str]) -> dict[str, float]:
    """Return the mean of a row's printed cells, of seen and of unseen tasks, where all of its cells are sound."""
    groups: dict[str, dict[str, float | None]] = {AVERAGE: {}, UNSEEN: {}}
    for cell in _cells_of(experiment, row, varied):
        if cell.dataset == AVERAGE or "/" in _column(cell):
            continue
        group = groups[UNSEEN if ("split", "unseen") in cell.variant else AVERAGE]
        if group.get(cell.dataset) is None:
            group[cell.dataset] = cell.value if cell.sound else None
    means: dict[str, float] = {}
    for name, group in groups.items():
        values = [value for value in group.values() if value is not None]
        if values and len(values) == len(group):
            means[name] = fmean(values)
    return means


def misprints_of(experiment: Experiment, row: Row, varied: Mapping[str, str]) -> list[str]:
    """Return a sentence for each printed average that the row's printed cells contradict by more than 0.1 points."""
    means = recomputed_of(experiment, row, varied)
    told: dict[str, str] = {}
    for cell in _cells_of(experiment, row, varied):
        name = _column(cell)
        if cell.dataset == AVERAGE and cell.value is not None and name in means:
            said = f"the printed {name.replace('_', ' ')} is {cell.value:g}, its cells give {means[name]:.1f}"
            # The first table that prints a number speaks for all.
            told.setdefault(name, said if abs(cell.value - means[name]) > MISPRINT else "")
    return [said for said in told.values() if said]


def cosines_of(suite: str) -> Mapping[tuple[str, str], float]:
    """Return the printed cosines of a suite's task vectors by (row, column); empty where none are printed."""
    try:
        return printed_cosines(suite)
    except ConfigError:
        return {}


def cosines_beside(suite: str, square: Square) -> str:
    """Return a sentence on how a matrix of cosines agrees with the printed one; "" where none is printed.

    Args:
        suite: whose experts are compared, by name.
        square: cosines with the experts' names on both sides; pairs are compared once, the diagonal never.
    """
    printed = cosines_of(suite)
    gaps: dict[tuple[str, str], float] = {}
    for index, row in enumerate(square.rows):
        for place, column in enumerate(square.columns):
            if place < index and (row, column) in printed:
                gaps[row, column] = abs(float(square.values[index, place]) - printed[row, column])
    if not gaps:
        return ""
    close = sum(gap <= COSINE for gap in gaps.values())
    (row, column), widest = max(gaps.items(), key=lambda item: item[1])
    return (
        f"{close} of {len(gaps)} printed cosines agree within {COSINE}; the largest difference is {widest:.3f} "
        f"({row}, {column})."
    )


def _cells_of(experiment: Experiment, row: Row, varied: Mapping[str, str]) -> Iterator[Cell]:
    """Yield the printed cells of a row, those of the first table first."""
    if row.printed is None:
        return
    wanted = {**row.printed.variant, **varied}
    for file in experiment.published:
        for cell in cells(file):
            if cell.method == row.printed.method and _fits(dict(cell.variant), _for(cell, wanted)):
                yield cell


def _for(cell: Cell, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return what is wanted of a cell: "own" stands for the model that was trained on the cell's data set."""
    return {key: cell.dataset if value == OWN else value for key, value in wanted.items()}


def _column(cell: Cell) -> str:
    """Return the name of a printed cell's column: a dataset, with its metric where a dataset has several."""
    if cell.dataset == AVERAGE:
        return UNSEEN if ("split", "unseen") in cell.variant else AVERAGE
    return cell.dataset if cell.metric in ("accuracy", "spearman") else f"{cell.dataset}/{cell.metric}"


def _fits(variant: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Tell whether a printed cell is of the wanted row: equal in all that is asked; `split` is no part of a row."""
    own = {key: value for key, value in variant.items() if key not in ("split", "total_params")}
    return own == dict(wanted)
