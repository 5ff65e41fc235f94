"""A table as text: for the terminal, Markdown, CSV and LaTeX."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusionbench.report.tables import Cell, Column, Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable

LATEX_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "↓": r"$\downarrow$",
        "±": r"$\pm$",
        "–": "--",
        "≠": r"$\neq$",
        "λ": r"$\lambda$",
    }
)


def as_rich(table: Table, *, stderr: bool = False) -> "RichTable":
    """Return a table for the terminal; reference rows are dim and stand above a rule."""
    from rich.table import Table as RichTable
    from rich.text import Text

    rich = RichTable(title=table.title, caption=table.caption, caption_justify="left", title_justify="left")
    rich.add_column("method", overflow="fold")
    for column in table.columns:
        rich.add_column(Text(column.title), justify="right")
    for index, row in enumerate(table.rows):
        last = row.reference and index + 1 < len(table.rows) and not table.rows[index + 1].reference
        texts = [
            Text(cell.text(column, stderr=stderr), style="bold" if cell.best else "")
            for cell, column in zip(row.cells, table.columns, strict=True)
        ]
        rich.add_row(Text(row.label), *texts, style="dim" if row.reference else None, end_section=last)
    return rich


def as_markdown(table: Table, *, stderr: bool = False) -> str:
    """Return a heading, the table in GitHub's Markdown, and the caption below it."""
    lines = [
        markdown_row(["method", *(column.title for column in table.columns)]),
        markdown_row([":--", *("--:" for _ in table.columns)]),
    ]
    for row in table.rows:
        cells = [
            f"**{text}**" if cell.best else text
            for cell, column in zip(row.cells, table.columns, strict=True)
            for text in [cell.text(column, stderr=stderr)]
        ]
        lines.append(markdown_row([row.label, *cells]))
    return "\n".join([f"## {table.title}", "", *lines, "", table.caption, ""])


def as_csv(table: Table, *, stderr: bool = False) -> str:
    """Return comma-separated values as recorded (fractions stay fractions, every digit), for a program to read."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    tasks = Counter(column.task for column in table.columns)
    titles = [_csv_title(column, alone=tasks[column.task] == 1) for column in table.columns]
    errors = [index for index, column in enumerate(table.columns) if stderr and column.kind == "task"]
    writer.writerow(["suite", "method", "label", "seed", *titles, *(f"{titles[index]}.stderr" for index in errors)])
    for row in table.rows:
        values = [cell.value for cell in row.cells]
        report = row.entry.run.report
        suite = report.suite.name if report.suite else ""
        spread = [row.cells[index].stderr for index in errors]
        writer.writerow([suite, row.entry.method, row.label, report.seed, *values, *spread])
    return text.getvalue()


def as_latex(table: Table, *, stderr: bool = False) -> str:
    """Return a floating table in LaTeX, for a document that loads booktabs."""
    heads = " & ".join(["method", *(latex(column.title) for column in table.columns)])
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex(f'{table.title}: {table.caption}')}}}",
        rf"  \begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"    \toprule",
        rf"    {heads} \\",
        r"    \midrule",
    ]
    for index, row in enumerate(table.rows):
        if index and table.rows[index - 1].reference and not row.reference:
            lines.append(r"    \midrule")
        cells = [_latex_cell(cell, column, stderr) for cell, column in zip(row.cells, table.columns, strict=True)]
        lines.append(rf"    {' & '.join([latex(row.label), *cells])} \\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def latex(text: str) -> str:
    """Return `text` with LaTeX's special characters written out."""
    return text.translate(LATEX_SPECIAL)


def markdown_row(cells: Sequence[str]) -> str:
    """Return cells as one line of a Markdown table; a bar within a cell is escaped."""
    escaped = [cell.replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _latex_cell(cell: Cell, column: Column, stderr: bool) -> str:
    text = latex(cell.text(column, stderr=stderr))
    return rf"\textbf{{{text}}}" if cell.best else text


def _csv_title(column: Column, *, alone: bool) -> str:
    if column.kind != "task":
        return column.kind
    return column.task if alone else f"{column.task}.{column.metric}"
