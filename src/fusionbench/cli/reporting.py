"""`report`: finished runs as tables, figures and a page."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fusionbench.cli.console import say


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command(epilog="Example: fusionbench report runs/ --format md,html,png")(report)


def report(
    folders: Annotated[
        list[str],
        typer.Argument(help="Run folders, or folders that hold them; also addresses, such as s3://bucket/runs."),
    ],
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Any of md, csv, latex, html, interactive, png, pdf, json-long, parquet, with commas (by default "
            "md,csv,png,html); of a leaderboard md, csv, latex, html (by default md,csv,html).",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the files, or an address; by default report/ in the first folder.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all-metrics", help="A column for every metric, not only the primary.")
    ] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Standard errors beside the values.")] = False,
    leaderboard: Annotated[
        bool,
        typer.Option("--leaderboard", help="Rank methods by suite, over seeds; writes leaderboard.md, .csv, .html."),
    ] = False,
) -> None:
    """Write runs as tables, figures and one self-contained page."""
    from fusionbench.records import find_runs, input_place, local_of, output_place, publish_files
    from fusionbench.report import as_rich, tables_of
    from fusionbench.report import report as write

    places = [input_place(folder) for folder in folders]
    runs, place = [local_of(each) for each in places], output_place(out) if out else places[0] / "report"
    if leaderboard:
        paths = _rank(runs, local_of(place), formats)
    else:
        metrics: Literal["all", "primary"] = "all" if every else "primary"
        paths = write(runs, (formats or "md,csv,png,html").split(","), local_of(place), metrics=metrics, stderr=stderr)
        for table in tables_of(find_runs(runs), metrics=metrics):
            say(as_rich(table, stderr=stderr))
    for name in publish_files(place, paths):
        say(f"Wrote {name}")


def _rank(folders: list[Path], out: Path, formats: str | None) -> list[Path]:
    """Print the standings of each suite and write them; return the files."""
    from fusionbench.errors import MissingData
    from fusionbench.records import find_runs
    from fusionbench.report.board_files import USUAL, check_forms, write_boards
    from fusionbench.report.leaderboard import as_markdown, leaderboards

    forms = (formats or USUAL).split(",")
    check_forms(forms)
    boards = leaderboards(find_runs(folders))
    if not boards:
        raise MissingData(f"No finished run with an average was found in {', '.join(map(str, folders))}.")
    say(as_markdown(boards))
    return write_boards(boards, forms, out)
