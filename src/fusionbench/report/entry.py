"""From folders of runs to files: what `fusionbench report` does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fusionbench.errors import ConfigError, MissingData
from fusionbench.records import Run, find_runs, write_long, write_whole
from fusionbench.registry import suggestion
from fusionbench.report.figures import charts_of
from fusionbench.report.formats import as_csv, as_latex, as_markdown
from fusionbench.report.front import front_charts
from fusionbench.report.html import page
from fusionbench.report.plots import Chart, Kind, file_word, save
from fusionbench.report.tables import Table, Which, tables_of

FORMATS = ("md", "csv", "latex", "html", "interactive", "png", "pdf", "json-long", "parquet")
"""Names of the formats; `interactive` is the figures by Plotly, `json-long` and `parquet` the long-form records."""
FIGURE_KINDS: Mapping[str, Kind] = {"png": "png", "pdf": "pdf"}


def report(
    folders: Sequence[Path],
    formats: Sequence[str],
    out: Path,
    *,
    metrics: Which = "primary",
    stderr: bool = False,
) -> list[Path]:
    """Write the finished runs in and below `folders` into the folder `out`, once in each format.

    Args:
        folders: run folders, or folders that hold them at any depth.
        formats: any of `FORMATS`, in the order in which the files are to be listed.
        out: folder of the files; made where it is missing.
        metrics: columns for the primary metric of each task, or for all.
        stderr: standard errors in Markdown, CSV and LaTeX; the page always has them.

    Returns:
        The paths of all files written.

    Raises:
        ConfigError: for an unknown format.
        MissingData: where no finished run is found.
        OutputError: where `out` cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"There is no format {name!r}. {suggestion(name, list(FORMATS))}")
    runs = find_runs(folders)
    if not runs:
        searched = ", ".join(str(folder) for folder in folders)
        raise MissingData(
            f"No finished run was found in {searched}. A run is finished when its folder has report.json."
        )
    tables = tables_of(runs, metrics=metrics)
    charts = (
        [[*charts_of(table), *front_charts(table)] for table in tables]
        if {"html", "interactive", *FIGURE_KINDS} & set(formats)
        else []
    )
    return [path for name in dict.fromkeys(formats) for path in _written(name, runs, tables, charts, out, stderr)]


def _written(
    name: str, runs: Sequence[Run], tables: Sequence[Table], charts: Sequence[Sequence[Chart]], out: Path, stderr: bool
) -> list[Path]:
    if name == "md":
        return [write_whole(out / "table.md", "\n".join(as_markdown(table, stderr=stderr) for table in tables))]
    if name == "latex":
        return [write_whole(out / "table.tex", "\n".join(as_latex(table, stderr=stderr) for table in tables))]
    if name == "csv":
        return [
            write_whole(out / f"{prefix}table.csv", as_csv(table, stderr=stderr))
            for prefix, table in zip(_prefixes(tables), tables, strict=True)
        ]
    if name == "html":
        return [write_whole(out / "report.html", page(tables, charts))]
    if name == "interactive":
        from fusionbench.report.interactive import interactive_page

        drawn = [chart for group in charts for chart in group]
        title = f"FusionBench figures: {', '.join(table.title for table in tables)}"
        return [write_whole(out / "interactive.html", interactive_page(title, drawn))]
    if kind := FIGURE_KINDS.get(name):
        return [
            save(chart, out, kind, prefix=prefix)
            for prefix, group in zip(_prefixes(tables), charts, strict=True)
            for chart in group
        ]
    return [write_long(runs, out / ("records.jsonl" if name == "json-long" else "records.parquet"))]


def _prefixes(tables: Sequence[Table]) -> list[str]:
    """Return what the file names of each suite begin with: nothing where there is only one suite."""
    if len(tables) == 1:
        return [""]
    return [f"{file_word(table.title)}-" for table in tables]
