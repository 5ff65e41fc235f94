"""Results as a table: methods down, tasks across, reference rows first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fusionbench.records import FRACTION, Run
from fusionbench.records.scores import Score, info_of
from fusionbench.report.labels import Entry, differing, entries_of, labels_of, order_of, scored_on

REFERENCES = ("pretrained", "individual", "traditional_mtl")
"""Methods that are yardsticks: their rows come first and are never marked as best."""

NORMALIZED = (
    "Normalized: mean over the seen tasks of the score divided by the individual model's (the inverse where lower is"
    " better), in %."
)
Which = Literal["primary", "all"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of numbers; `task` and `metric` are "" for the columns that sum up."""

    kind: Literal["task", "average", "unseen_average", "normalized"]
    title: str
    unit: str = FRACTION
    better: Literal["higher", "lower"] = "higher"
    task: str = ""
    metric: str = ""
    decimals: int = 1

    @property
    def factor(self) -> int:
        """What a value is multiplied with before it is printed: fractions are printed in percent."""
        return 100 if self.unit == FRACTION else 1


@dataclass(frozen=True, slots=True)
class Cell:
    """One value in its metric's unit, None where there is none; `best` is set in one column's best cells."""

    value: float | None = None
    stderr: float | None = None
    best: bool = False

    def text(self, column: Column, *, stderr: bool = False, missing: str = "–", plus_minus: str = "±") -> str:
        """Return the cell as printed: percent with one digit for fractions, enough digits for anything else."""
        if self.value is None:
            return missing
        number = f"{self.value * column.factor:.{column.decimals}f}"
        if not stderr or self.stderr is None:
            return number
        return f"{number} {plus_minus} {self.stderr * column.factor:.{column.decimals}f}"


@dataclass(frozen=True, slots=True)
class Row:
    """One variant of one run."""

    label: str
    entry: Entry
    cells: tuple[Cell, ...]

    @property
    def reference(self) -> bool:
        """Whether the row is a yardstick."""
        return self.entry.method in REFERENCES


@dataclass(frozen=True, slots=True)
class Table:
    """All runs of one suite."""

    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def column(self, kind: str) -> int | None:
        """Return the index of the first column of a kind."""
        return next((index for index, column in enumerate(self.columns) if column.kind == kind), None)

    @property
    def summary(self) -> int | None:
        """The index of the column that sums a row up: the average, else the normalised score; None without both."""
        index = self.column("average")
        return index if index is not None else self.column("normalized")


def tables_of(runs: Sequence[Run], *, metrics: Which = "primary") -> list[Table]:
    """Return one table for each suite, size and scored split, in the order in which they first occur.

    Scores on the validation split or on the first examples stand in tables of their own: beside those of the test split
    they would be ranked as if they were alike. Corruptions are settings that vary within a table, and the best value is
    that among rows of one corruption.

    Args:
        runs: finished runs; those with equal reports count once.
        metrics: show the primary metric of each task, or all.
    """
    suites: dict[str, list[Run]] = {}
    for run in runs:
        suites.setdefault(suite_title(run, corruption=False), []).append(run)
    found = []
    for title, group in suites.items():
        whole = {suite_title(run) for run in group}
        found.append(table_of(group, title=whole.pop() if len(whole) == 1 else title, metrics=metrics))
    return found


def table_of(runs: Sequence[Run], *, title: str = "", metrics: Which = "primary") -> Table:
    """Return the table of runs that belong together."""
    entries = _in_order(entries_of(runs))
    columns = list(_columns(entries, metrics))
    grid = [[_cell(entry, column) for column in columns] for entry in entries]
    columns = [replace(column, decimals=_decimals(column, cells)) for column, *cells in _across(columns, grid)]
    comparable = len({_seen(entry) for entry in entries}) == 1
    marked = _mark_best(entries, columns, grid, comparable)
    rows = zip(labels_of(entries), entries, marked, strict=True)
    return Table(
        title or (suite_title(runs[0]) if runs else ""),
        _caption(columns, marked, comparable, several=len({scored_on(entry.run) for entry in entries}) > 1),
        tuple(columns),
        tuple(Row(label, entry, tuple(cells)) for label, entry, cells in rows),
    )


def suite_title(run: Run, *, corruption: bool = True) -> str:
    """Return "mini/clip (small)", or a stand-in for runs without a suite; with the data if not the whole test split."""
    suite, data = run.report.suite, scored_on(run, corruption=corruption)
    name = "no suite" if suite is None else f"{suite.name} ({suite.size})" if suite.size else suite.name
    return f"{name}, {data}" if data else name


def _in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Return references first, then methods as they come, the runs of one method by the settings that differ."""
    methods = list(dict.fromkeys(entry.method for entry in entries))
    ordered: list[Entry] = []
    for method in [*REFERENCES, *(name for name in methods if name not in REFERENCES)]:
        group = [entry for entry in entries if entry.method == method]
        keys = differing(group)
        ordered += sorted(group, key=lambda entry: [order_of(entry.settings.get(key)) for key in keys])
    return ordered


def _columns(entries: Sequence[Entry], which: Which) -> Iterator[Column]:
    found = list(_task_columns(entries, which))
    unseen = {task for entry in entries for task, score in entry.variant.tasks.items() if not score.seen}
    uniform = len({(column.metric, column.unit) for column in found}) == 1
    titled = [replace(column, title=_title(column, uniform, column.task in unseen)) for column in found]
    yield from (column for column in titled if column.task not in unseen)
    if any(entry.variant.average for entry in entries):
        yield Column("average", "average")
    yield from (column for column in titled if column.task in unseen)
    if any(entry.variant.unseen_average for entry in entries):
        yield Column("unseen_average", "unseen average")
    if any(entry.variant.normalized is not None for entry in entries):
        yield Column("normalized", "normalized")


def _task_columns(entries: Sequence[Entry], which: Which) -> Iterator[Column]:
    tasks = dict.fromkeys(task for entry in entries for task in entry.variant.tasks)
    for task in tasks:
        scored = [entry for entry in entries if task in entry.variant.tasks]
        names = [list(entry.variant.tasks[task].metrics)[: None if which == "all" else 1] for entry in scored]
        for metric in dict.fromkeys(name for group in names for name in group):
            described = next(entry for entry in scored if metric in entry.variant.tasks[task].metrics)
            info = info_of(described.run.report.metrics, metric)
            yield Column("task", task, info.unit, info.better, task, metric)


def _title(column: Column, uniform: bool, unseen: bool) -> str:
    unit = "%" if column.unit == FRACTION else column.unit
    words = [column.task]
    if not uniform:
        words += [column.metric, *([f"({unit})"] if unit else [])]
    if unseen:
        words.append("(unseen)")
    if column.better == "lower":
        words.append("↓")
    return " ".join(words)


def _cell(entry: Entry, column: Column) -> Cell:
    variant = entry.variant
    if column.kind == "task":
        task = variant.tasks.get(column.task)
        score: Score | None = task.metrics.get(column.metric) if task else None
        return Cell(score.value, score.stderr) if score else Cell()
    if column.kind == "normalized":
        return Cell(variant.normalized)
    average = variant.average if column.kind == "average" else variant.unseen_average
    return Cell(next(iter(average.values()))) if average else Cell()


def _across(columns: Sequence[Column], grid: Sequence[Sequence[Cell]]) -> Iterator[tuple[Column, *tuple[Cell, ...]]]:
    for index, column in enumerate(columns):
        yield column, *(row[index] for row in grid)


def _decimals(column: Column, cells: Sequence[Cell]) -> int:
    """Return one digit for percent, else as many as give the largest value four digits."""
    if column.unit == FRACTION:
        return 1
    largest = max((abs(cell.value) for cell in cells if cell.value is not None), default=0.0)
    return 3 if largest < 10 else 2 if largest < 100 else 1 if largest < 1000 else 0


def _mark_best(
    entries: Sequence[Entry], columns: Sequence[Column], grid: Sequence[Sequence[Cell]], comparable: bool
) -> list[list[Cell]]:
    """Return the grid with the best cell of each column marked, among two methods or more; equal prints share it.

    Rows are rivals where they were scored on the same inputs.
    """
    marked = [list(row) for row in grid]
    rivals: dict[str, list[int]] = {}
    for row, entry in enumerate(entries):
        if entry.method not in REFERENCES:
            rivals.setdefault(scored_on(entry.run), []).append(row)
    for index, column in enumerate(columns):
        if column.kind != "task" and not comparable:
            continue
        for group in rivals.values():
            held = [row for row in group if _has(grid[row][index])]
            printed = {row: float(grid[row][index].text(column)) for row in held}
            if len(printed) < 2:
                continue
            best = max(printed.values()) if column.better == "higher" else min(printed.values())
            for row, value in printed.items():
                marked[row][index] = replace(marked[row][index], best=value == best)
    return marked


def _has(cell: Cell) -> bool:
    return cell.value is not None


def _seen(entry: Entry) -> frozenset[str]:
    return frozenset(task for task, score in entry.variant.tasks.items() if score.seen)


def _caption(
    columns: Sequence[Column], marked: Sequence[Sequence[Cell]], comparable: bool, *, several: bool = False
) -> str:
    """Return what the values are; `several`: whether rows were scored on inputs of several corruptions."""
    tasks = [column for column in columns if column.kind == "task"]
    metrics = {(column.metric, column.unit) for column in tasks}
    kinds = {column.kind for column in columns}
    said: list[str] = []
    if len(metrics) == 1:
        metric, unit = metrics.pop()
        said.append(f"Values: {metric} in {'%' if unit == FRACTION else unit}." if unit else f"Values: {metric}.")
    elif tasks:
        said.append("Metric and unit of each task are in its heading.")
    if any(column.better == "lower" for column in tasks):
        said.append("↓: lower is better.")
    if "average" in kinds:
        said.append("Average: mean over the seen tasks.")
    if "normalized" in kinds:
        said.append(NORMALIZED)
    if any(cell.best for row in marked for cell in row):
        rivals = ", among rows of the same corruption" if several else ""
        said.append(f"Bold: best value apart from the reference rows{rivals}.")
    if not comparable:
        said.append("The rows were scored on different tasks: their averages are not comparable.")
    return " ".join(said)
