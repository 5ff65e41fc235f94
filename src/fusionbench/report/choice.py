"""What of a table a figure can show: rows that fit into a legend, values on one scale, and swept parameters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusionbench.records import FRACTION
from fusionbench.report.labels import differing, scored_on
from fusionbench.report.tables import Cell, Column, Row, Table

MOST_METHODS = 6
"""How many methods one figure tells apart; there are as many colours."""
NO_PARAMETER = frozenset({"variant", "seed", "suite.seed"})
"""Settings that tell rows apart and are no axis of a curve."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Rows whose values can share one axis, in percent.

    `values` is (rows, tasks); `averages` is (rows,) or empty where some row has none; `remark` says what was left out.
    """

    title: str
    axis: str
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    values: tuple[tuple[float, ...], ...]
    averages: tuple[float, ...]
    top: float
    remark: str

    @property
    def caption(self) -> str:
        """One or two sentences below the figure."""
        return f"{self.title}: {self.axis} by task. {self.remark}".strip()


def comparable(table: Table) -> Picture | None:
    """Return what can be drawn on one axis, or None.

    Tasks scored in fractions, higher better, are drawn as they are. Where another unit occurs, each value is divided by
    the individual model's (the other way round where lower is better), if that row is there.
    """
    columns = [index for index, column in enumerate(table.columns) if column.kind == "task"]
    plain = all(_plain(table.columns[index]) for index in columns)
    yardstick = next((row for row in table.rows if row.entry.method == "individual"), None)
    if not columns or not (plain or yardstick):
        return None
    scored = [row for row in table.rows if all(row.cells[index].value is not None for index in columns)]
    rows = _fitting(table, scored)
    if not rows:
        return None
    if plain or yardstick is None:
        values = [[100 * _value(row.cells[index]) for index in columns] for row in rows]
        axis, summary = _axis(table), table.column("average")
    else:
        values = [[_percent_of(row, yardstick, table, index) for index in columns] for row in rows]
        axis, summary = "score relative to individual (%)", table.column("normalized")
    top = max([100.0, *(value for row in values for value in row if math.isfinite(value))])
    return Picture(
        table.title,
        axis,
        tuple(table.columns[index].task for index in columns),
        tuple(rows),
        tuple(tuple(row) for row in values),
        _averages(rows, summary),
        top if top == 100 else 1.05 * top,
        _remark(table, rows, scored),
    )


def sweeps_of(table: Table) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return the points `(value, average in percent)` by method for each parameter that was swept alone.

    A method counts where its rows differ in exactly one numeric setting. Where the table has no average, the normalised
    score stands in.
    """
    summary = table.summary
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    if summary is None:
        return found
    methods = dict.fromkeys(row.entry.method for row in table.rows if not row.reference)
    for method in methods:
        rows = [row for row in table.rows if row.entry.method == method and row.cells[summary].value is not None]
        keys = [key for key in differing([row.entry for row in rows]) if key not in NO_PARAMETER]
        if len(keys) == 1 and all(_number(row.entry.settings, keys[0]) is not None for row in rows):
            points = [(float(row.entry.settings[keys[0]]), 100 * _value(row.cells[summary])) for row in rows]
            found.setdefault(keys[0], {})[method] = sorted(points)
    return found


def _plain(column: Column) -> bool:
    return column.unit == FRACTION and column.better == "higher"


def _axis(table: Table) -> str:
    metrics = {column.metric for column in table.columns if column.kind == "task"}
    return f"{metrics.pop()} (%)" if len(metrics) == 1 else "primary metric (%)"


def _value(cell: Cell) -> float:
    return math.nan if cell.value is None else cell.value


def _percent_of(row: Row, yardstick: Row, table: Table, index: int) -> float:
    own, alone = _value(row.cells[index]), _value(yardstick.cells[index])
    above, below = (own, alone) if table.columns[index].better == "higher" else (alone, own)
    return 100 * above / below if below else math.nan


def _averages(rows: Sequence[Row], summary: int | None) -> tuple[float, ...]:
    if summary is None:
        return ()
    values = [row.cells[summary].value for row in rows]
    return tuple(100 * value for value in values if value is not None) if None not in values else ()


def _fitting(table: Table, rows: Sequence[Row]) -> list[Row]:
    """Return the reference rows and the best row of each method, the best methods where there are too many.

    Where there are too many and they were scored on inputs of several corruptions, those of the first row's are taken:
    a method's best corruption says nothing of it.
    """
    summary = table.summary
    if sum(not row.reference for row in rows) > MOST_METHODS:
        rows = [row for row in rows if scored_on(row.entry.run) == scored_on(rows[0].entry.run)]

    def merit(row: Row) -> float:
        value = row.cells[summary].value if summary is not None else None
        return -math.inf if value is None else value

    methods = [row for row in rows if not row.reference]
    best = {row.entry.method: row for row in sorted(methods, key=merit)}
    kept = sorted(best.values(), key=merit, reverse=True)[:MOST_METHODS] if len(methods) > MOST_METHODS else methods
    return [row for row in rows if row.reference or row in kept]


def _remark(table: Table, rows: Sequence[Row], scored: Sequence[Row]) -> str:
    said: list[str] = []
    shown = sum(not row.reference for row in rows)
    methods = sum(not row.reference for row in scored)
    if shown < methods:
        data = {scored_on(row.entry.run) for row in scored}
        of = f" on {scored_on(rows[0].entry.run) or 'the clean test split'}" if len(data) > 1 else ""
        said.append(f"{shown} of {methods} rows are drawn: the best of each method by average{of}.")
    if missing := len(table.rows) - len(scored):
        said.append(f"{missing} without a score on every task {'is' if missing == 1 else 'are'} left out.")
    return " ".join(said)


def _number(settings: Mapping[str, object], key: str) -> float | None:
    value = settings.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
