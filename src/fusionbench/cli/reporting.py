"""`report`: finished runs as tables, figures and a page."""

from pathlib import Path
from typing import Annotated

import typer

from fusionbench.cli.console import say


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command(epilog="Example: fusionbench report runs/ --format md,html,png")(report)


def report(
    folders: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold them.")],
    formats: Annotated[
        str,
        typer.Option(
            "--format", help="Any of md, csv, latex, html, interactive, png, pdf, json-long, parquet, with commas."
        ),
    ] = "md,csv,png,html",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the files; by default report/ in the first folder.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all-metrics", help="A column for every metric, not only the primary.")
    ] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Standard errors beside the values.")] = False,
    leaderboard: Annotated[
        bool,
        typer.Option("--leaderboard", help="Rank methods by suite, over seeds; writes leaderboard.md, .csv and .html."),
    ] = False,
) -> None:
    """Write finished runs as tables, figures and one self-contained page."""
    if leaderboard:
        _rank(folders, out or folders[0] / "report")
        return
    from fusionbench.records import find_runs
    from fusionbench.report import as_rich, tables_of
    from fusionbench.report import report as write

    paths = write(
        folders, formats.split(","), out or folders[0] / "report", metrics="all" if every else "primary", stderr=stderr
    )
    for table in tables_of(find_runs(folders), metrics="all" if every else "primary"):
        say(as_rich(table, stderr=stderr))
    for path in paths:
        say(f"Wrote {path}")


def _rank(folders: list[Path], out: Path) -> None:
    """Print the standings of each suite and write them."""
    from fusionbench.errors import MissingData
    from fusionbench.records import find_runs, write_whole
    from fusionbench.report.board_page import as_html
    from fusionbench.report.leaderboard import as_csv, as_markdown, leaderboards

    boards = leaderboards(find_runs(folders))
    if not boards:
        raise MissingData(f"No finished run with an average was found in {', '.join(map(str, folders))}.")
    say(as_markdown(boards))
    texts = {"md": as_markdown(boards), "csv": as_csv(boards), "html": as_html(boards, out)}
    for ending, content in texts.items():
        say(f"Wrote {write_whole(out / f'leaderboard.{ending}', content)}")
