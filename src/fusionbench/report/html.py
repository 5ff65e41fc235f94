"""All runs as one page that needs nothing else: no server, no network, no script to be read."""

from collections.abc import Iterator, Sequence
from html import escape

from fusionbench.records import Run
from fusionbench.report.details import details, duration, parameters
from fusionbench.report.plots import Chart
from fusionbench.report.shell import asset, document
from fusionbench.report.svg import inline_svg
from fusionbench.report.tables import Cell, Column, Row, Table


def page(tables: Sequence[Table], charts: Sequence[Sequence[Chart]]) -> str:
    """Return the page as text; equal tables and charts give equal bytes.

    Args:
        tables: one a suite.
        charts: the figures of each table, in the same order.
    """
    title = f"FusionBench: {', '.join(table.title for table in tables)}"
    sections = (
        _section(f"s{number}", table, figures)
        for number, (table, figures) in enumerate(zip(tables, charts, strict=True), start=1)
    )
    return document(title, [_header(tables), "<main>", *sections, "</main>"], scripts=[asset("page.js")])


def _header(tables: Sequence[Table]) -> str:
    runs = [run for table in tables for run in _runs(table)]
    days = sorted({run.info.date[:10] for run in runs if run.info})
    when = f" · run on {days[0]}" if len(days) == 1 else f" · run from {days[0]} to {days[-1]}" if days else ""
    count = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
    links = (f'<a href="#s{number}">{escape(table.title)}</a>' for number, table in enumerate(tables, start=1))
    navigation = f'<nav aria-label="Suites">{" ".join(links)}</nav>' if len(tables) > 1 else ""
    titles = ", ".join(table.title for table in tables)
    return f"<header><h1>FusionBench report</h1><p>{escape(titles)} · {count}{when}</p>{navigation}</header>"


def _section(anchor: str, table: Table, charts: Sequence[Chart]) -> str:
    numbers = {id(run): f"{anchor}-run{number}" for number, run in enumerate(_runs(table), start=1)}
    figures = (figure_html(chart, f"{anchor}-{number}") for number, chart in enumerate(charts, start=1))
    return "\n".join(
        [
            f'<section id="{anchor}" data-suite aria-labelledby="{anchor}-title">',
            f'<h2 id="{anchor}-title">{escape(table.title)}</h2>',
            _controls(anchor, table),
            f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{anchor}-title">',
            _table(table, numbers),
            "</div>",
            f'<p class="caption">{escape(table.caption)}</p>',
            f'<div class="figures">{"".join(figures)}</div>' if charts else "",
            "<h3>Runs</h3>",
            *(_details(run, table, numbers[id(run)]) for run in _runs(table)),
            "</section>",
        ]
    )


def figure_html(chart: Chart, prefix: str) -> str:
    """Return a chart as a `<figure>` with its caption; the ids inside begin with `prefix`."""
    width, height = chart.figure.get_size_inches()
    drawn, caption = inline_svg(chart, prefix), f"<figcaption>{escape(chart.caption)}</figcaption>"
    if width > 1.6 * height:
        return f'<figure class="wide"><div tabindex="0">{drawn}</div>{caption}</figure>'
    return f"<figure>{drawn}{caption}</figure>"


def _controls(anchor: str, table: Table) -> str:
    """Return what only a script can serve; the script shows it."""
    spread = any(cell.stderr is not None for row in table.rows for cell in row.cells)
    errors = '<label><input type="checkbox" data-errors> standard errors</label>' if spread else ""
    return (
        f'<div class="controls" hidden><label for="{anchor}-filter">Filter</label>'
        f'<input id="{anchor}-filter" type="search" placeholder="ties scale=0.3" autocomplete="off" data-filter>'
        f'{errors}<output data-count aria-live="polite"></output></div>'
    )


def _table(table: Table, numbers: dict[int, str]) -> str:
    heads = [
        '<th scope="col">method</th>',
        *(f'<th scope="col" data-better="{column.better}">{escape(column.title)}</th>' for column in table.columns),
        '<th scope="col" data-better="lower">parameters</th>',
        '<th scope="col" data-better="lower">time</th>',
    ]
    bounds = [_bounds(table, index) for index in range(len(table.columns))]
    groups = (
        (
            kind,
            [_row(row, table.columns, bounds, numbers[id(row.entry.run)]) for row in table.rows if row.reference is of],
        )
        for kind, of in (("references", True), ("methods", False))
    )
    bodies = (f'<tbody class="{kind}">\n{chr(10).join(rows)}\n</tbody>' for kind, rows in groups if rows)
    return f"<table>\n<thead><tr>{''.join(heads)}</tr></thead>\n{chr(10).join(bodies)}\n</table>"


def _row(row: Row, columns: Sequence[Column], bounds: Sequence[tuple[float, float]], anchor: str) -> str:
    cells = (_cell(cell, column, limits) for cell, column, limits in zip(row.cells, columns, bounds, strict=True))
    model, info = row.entry.variant.model, row.entry.run.info
    size = f'<td data-value="{model.parameters}">{parameters(model.parameters)}</td>' if model else "<td>–</td>"
    time = f'<td data-value="{info.own_seconds!r}">{duration(info.own_seconds)}</td>' if info else "<td>–</td>"
    return f'<tr><th scope="row"><a href="#{anchor}">{escape(row.label)}</a></th>{"".join(cells)}{size}{time}</tr>'


def _cell(cell: Cell, column: Column, bounds: tuple[float, float]) -> str:
    if cell.value is None:
        return "<td>–</td>"
    low, high = bounds
    share = (cell.value - low) / (high - low) if high > low else 0.0
    shade = round(100 * (share if column.better == "higher" else 1 - share))
    text = f"<strong>{cell.text(column)}</strong>" if cell.best else cell.text(column)
    spread = Cell(cell.stderr).text(column, missing="")
    error = f" <small>± {spread}</small>" if spread else ""
    return f'<td data-value="{cell.value!r}" style="--share:{shade}%">{text}{error}</td>'


def _bounds(table: Table, index: int) -> tuple[float, float]:
    values = [row.cells[index].value for row in table.rows]
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else (0.0, 0.0)


def _details(run: Run, table: Table, anchor: str) -> str:
    rows = [row for row in table.rows if row.entry.run is run]
    return details(run, rows[0].label if len(rows) == 1 else f"{run.report.method.name}: {len(rows)} variants", anchor)


def _runs(table: Table) -> Iterator[Run]:
    """Yield the runs of a table once each, in the order of its rows."""
    seen: set[int] = set()
    for row in table.rows:
        if id(row.entry.run) not in seen:
            seen.add(id(row.entry.run))
            yield row.entry.run
