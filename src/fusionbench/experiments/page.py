"""An answer as one page that needs nothing else, in the style of the report's page."""

from collections.abc import Sequence
from html import escape

from fusionbench.experiments.rendering import NOTE, claims_of, grid, headline, legend
from fusionbench.experiments.reproduce import Answer
from fusionbench.report.html import figure_html
from fusionbench.report.plots import Chart
from fusionbench.report.shell import document


def as_html(answer: Answer, charts: Sequence[Chart] = ()) -> str:
    """Return the answer as a page: what was run, the table beside the printed one, figures, claims, what is missing.

    Args:
        answer: of `reproduce`.
        charts: of `figures_of`; drawn into the page.
    """
    columns, rows = grid(answer)
    marks = [' class="note"' if column == NOTE else "" for column in columns]
    heads = "".join(f'<th scope="col"{m}>{escape(column)}</th>' for column, m in zip(columns, marks, strict=True))
    head = f'<th scope="col">row</th>{heads}'
    body_rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td{mark}>{escape(cell)}</td>" for cell, mark in zip(cells, marks, strict=True))
        + "</tr>"
        for name, *cells in rows
    )
    name = escape(answer.experiment.name)
    figures = "".join(figure_html(chart, f"figure-{number}") for number, chart in enumerate(charts, start=1))
    body = [
        f"<header><h1>{name}</h1>",
        *(f"<p>{escape(text)}</p>" for text in headline(answer)),
        "</header>\n<main>",
        '<h2 id="table">Table</h2>\n<div class="scroll" tabindex="0" role="region" aria-labelledby="table">',
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>{body_rows}</tbody>\n</table>\n</div>",
        f'<p class="caption">{escape(said)}</p>' if (said := legend(answer)) else "",
        f'<div class="figures">{figures}</div>' if figures else "",
        _listed("Claims", claims_of(answer)),
        _listed("Rows without numbers", [f"{row}: {reason}" for row, reason in answer.failed.items()]),
        "</main>",
    ]
    return document(answer.experiment.name, body)


def _listed(title: str, texts: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<h2>{title}</h2>\n<ul>{items}</ul>" if items else ""
