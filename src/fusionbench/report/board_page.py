"""The leaderboards as a page: a sortable table a suite, with links to the runs behind each row."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from fusionbench.report.details import parameters
from fusionbench.report.leaderboard import LEGEND, Board, Standing
from fusionbench.report.shell import asset, document

COLUMNS = (
    ("method", ""),
    ("rank", "lower"),
    ("average (%)", "higher"),
    ("s.e.", "lower"),
    ("normalized (%)", "higher"),
    ("seeds", "higher"),
    ("parameters", "lower"),
)


def as_html(boards: Sequence[Board], folder: Path) -> str:
    """Return the page that is written into `folder`; its links lead from there to the runs' own files."""
    links = " ".join(f'<a href="#b{number}">{escape(board.title)}</a>' for number, board in enumerate(boards, start=1))
    header = f"<header><h1>FusionBench leaderboard</h1><p>{escape(LEGEND)}</p>"
    navigation = f'<nav aria-label="Suites">{links}</nav>' if len(boards) > 1 else ""
    sections = [_section(f"b{number}", board, folder) for number, board in enumerate(boards, start=1)]
    body = [f"{header}{navigation}</header>", "<main>", *sections, "</main>"]
    return document("FusionBench leaderboard", body, scripts=[asset("page.js")])


def _section(anchor: str, board: Board, folder: Path) -> str:
    heads = "".join(
        f'<th scope="col"{f" data-better={better}" if better else ""}>{escape(name)}</th>' for name, better in COLUMNS
    )
    groups = (
        ("references", [standing for standing in board.standings if standing.rank is None]),
        ("methods", [standing for standing in board.standings if standing.rank is not None]),
    )
    bodies = "\n".join(
        "\n".join([f'<tbody class="{kind}">', *(_row(standing, folder) for standing in found), "</tbody>"])
        for kind, found in groups
        if found
    )
    return "\n".join(
        [
            f'<section id="{anchor}" data-suite aria-labelledby="{anchor}-title">',
            f'<h2 id="{anchor}-title">{escape(board.title)}</h2>',
            f'<div class="controls" hidden><label for="{anchor}-filter">Filter</label>',
            f'<input id="{anchor}-filter" type="search" autocomplete="off" data-filter>',
            '<output data-count aria-live="polite"></output></div>',
            f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{anchor}-title">',
            f'<table>\n<thead><tr>{heads}<th scope="col">runs</th></tr></thead>\n{bodies}\n</table>',
            "</div>",
            "</section>",
        ]
    )


def _row(standing: Standing, folder: Path) -> str:
    cells = [
        _cell(standing.rank, "" if standing.rank is None else str(standing.rank)),
        _cell(standing.average, f"{100 * standing.average:.1f}"),
        _cell(standing.stderr, "" if standing.stderr is None else f"{100 * standing.stderr:.1f}"),
        _cell(standing.normalized, "" if standing.normalized is None else f"{100 * standing.normalized:.1f}"),
        _cell(standing.seeds, str(standing.seeds)),
        _cell(standing.parameters, "" if standing.parameters is None else parameters(standing.parameters)),
    ]
    links = " ".join(
        f'<a href="{escape(_address(run, folder))}">{number}</a>' for number, run in enumerate(standing.runs, start=1)
    )
    return f'<tr><th scope="row">{escape(standing.label)}</th>{"".join(cells)}<td>{links}</td></tr>'


def _cell(value: float | None, text: str) -> str:
    return "<td>–</td>" if value is None else f'<td data-value="{value!r}">{text}</td>'


def _address(run: Path, folder: Path) -> str:
    """Return the way from the page to a run's report, as an address."""
    from urllib.parse import quote

    return quote(Path(os.path.relpath(run / "report.json", folder)).as_posix())
