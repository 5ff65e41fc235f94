"""`analyze` and `compare`: what lies between the models, and whether a difference of two runs is more than chance."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusionbench.cli.console import local_folder, progress, say, say_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusionbench.config import Recipe
    from fusionbench.merge import Pool, Progress
    from fusionbench.report.analysis import Square

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Analysis(StrEnum):
    """What can be analysed."""

    cosine = "cosine"
    norms = "norms"
    signs = "signs"
    overlap = "overlap"
    transfer = "transfer"
    connectivity = "connectivity"
    landscape = "landscape"
    coefficients = "coefficients"
    routing = "routing"


OF_A_RUN = (Analysis.coefficients, Analysis.routing)
SCORED = (Analysis.transfer, Analysis.connectivity, Analysis.landscape)
DETAILS = ("cosine-", "routing-", "coefficients-")
"""What the names of matrices begin with that are written and not printed."""


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command(epilog="Example: fusionbench analyze cosine suite=mini/clip --out runs/cosine")(analyze)
    application.command(
        epilog="Example: fusionbench compare runs/mini/clip/ties-1a2b3c4d runs/mini/clip/dare-5e6f7a8b"
    )(compare)


def analyze(
    what: Annotated[
        Analysis,
        typer.Argument(
            help="cosine, norms, signs, overlap: of the experts' deltas, from files alone. transfer: every model on "
            "every task. connectivity, landscape: scores between two experts. coefficients, routing: what a finished "
            "run learned."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="suite=NAME, or base=REF experts.NAME=REF for what needs no tasks; for coefficients and routing the "
            "folder of a run, or its address, such as s3://bucket/run."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(parser=local_folder, help="Folder of tables, figures and runs.")] = Path(
        "runs/analysis"
    ),
    rank: Annotated[int, typer.Option(help="overlap: leading directions of each expert.")] = 8,
    between: Annotated[str, typer.Option(help="connectivity, landscape: two experts, separated by a comma.")] = "",
    points: Annotated[int, typer.Option(help="connectivity: points on the line.")] = 11,
    examples: Annotated[int, typer.Option(help="routing: inputs of each task.", min=1)] = 256,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Also write the figures as a Plotly page (5 MB).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Analyse the models of a suite or a recipe, or a run. Each matrix is written as CSV, PNG and PDF."""
    from fusionbench.compat import load_recipe

    with progress() as advance:
        if what in OF_A_RUN:
            found = _learned(what, overrides or [], examples, advance)
        else:
            recipe, _ = load_recipe(None, [*(overrides or []), "method=pretrained"])
            if what in SCORED:
                found = {what.value: _probe(what, recipe, out, between, points, advance)}
            else:
                found = _measure(what, recipe, rank, advance)
    _write(found, out, f"FusionBench: {what.value}" if interactive else "")
    if as_json:
        say_json({name: _plain(square) for name, square in found.items()})
        return
    for name, square in found.items():
        if not name.startswith(DETAILS):
            _print(square)
    say(f"Wrote {', '.join(found)} into {out}, each as .csv, .png and .pdf.")


def _write(found: "Mapping[str, Square]", out: Path, interactive: str) -> None:
    """Write each matrix as CSV, PNG and PDF, and all on a page of that title where there is one."""
    from fusionbench.records import write_whole
    from fusionbench.report.heatmap import heatmap
    from fusionbench.report.interactive import interactive_page
    from fusionbench.report.plots import save

    charts = [heatmap(name, square) for name, square in found.items()]
    for chart, (name, square) in zip(charts, found.items(), strict=True):
        write_whole(out / f"{name}.csv", square.to_csv())
        save(chart, out)
        save(chart, out, "pdf")
    if interactive:
        write_whole(out / "interactive.html", interactive_page(interactive, charts))


def _learned(what: Analysis, folders: list[str], examples: int, advance: "Progress") -> dict[str, "Square"]:
    """Return the matrices of what a finished run learned."""
    from fusionbench.errors import ConfigError
    from fusionbench.records import fetched
    from fusionbench.report.analysis.coefficients import ARTEFACT, coefficients

    if len(folders) != 1 or "=" in folders[0]:
        raise ConfigError(
            f"{what.value} is of one finished run: fusionbench analyze {what.value} runs/mini/clip/wemoe-1a2b3c4d."
        )
    if what is Analysis.coefficients:
        with fetched(folders[0], ARTEFACT.parts[0]) as folder:
            return coefficients(folder)
    from fusionbench.report.analysis.routing import routing
    from fusionbench.run.folder import MODEL

    with fetched(folders[0], MODEL) as folder:
        return routing(folder, examples=examples, progress=advance)


def _measure(what: Analysis, recipe: "Recipe", rank: int, advance: "Progress") -> dict[str, "Square"]:
    """Return the matrices of an analysis that reads files alone."""
    from fusionbench.report.analysis import geometry, overlap

    pool = _opened(recipe, advance)
    if what is Analysis.overlap:
        return {"overlap": overlap(pool, rank, advance).mean}
    found = geometry(pool, advance)
    if what is Analysis.cosine:
        return {"cosine": found.cosines(), **{f"cosine-{block}": found.cosines(block) for block in found.grams}}
    if what is Analysis.norms:
        return {"norms": found.norms()}
    return {"conflicts": found.conflicts(), "cancelled": found.cancelled()}


def _opened(recipe: "Recipe", advance: "Progress") -> "Pool":
    """Return the models that a recipe names, or their adapters by themselves with space=adapter."""
    from fusionbench.merge import open_pool
    from fusionbench.run import resolve
    from fusionbench.suites.opening import open_models

    if recipe.suite is None:
        return open_pool(recipe)
    setting = resolve(recipe, advance)
    if recipe.space != "adapter" or setting.suite is None:
        return setting.pool
    return open_models(setting.suite.suite.pool, "adapter")


def _probe(what: Analysis, recipe: "Recipe", out: Path, between: str, points: int, advance: "Progress") -> "Square":
    """Return the matrix of an analysis that scores models."""
    from fusionbench.errors import ConfigError
    from fusionbench.experiments.probes import connectivity, landscape, transfer

    if what is Analysis.transfer:
        return transfer(recipe, out / "runs", advance)
    names = tuple(name.strip() for name in between.split(",") if name.strip())
    if len(names) != 2:
        raise ConfigError(f"{what.value} lies between two experts: add --between FIRST,SECOND.")
    if what is Analysis.connectivity:
        return connectivity(recipe, (names[0], names[1]), out / "runs", points=points, progress=advance)
    return landscape(recipe, (names[0], names[1]), out / "runs", progress=advance)


def compare(
    first: Annotated[str, typer.Argument(help="Folder of a finished run, or its address, such as s3://bucket/run.")],
    second: Annotated[str, typer.Argument(help="Folder or address of another one, of the same suite.")],
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of each task.", min=1)] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 0,
    as_json: Json = False,
) -> None:
    """Compare two runs example by example. Differences with 95 % intervals by paired bootstrap."""
    from dataclasses import asdict

    from rich.table import Table

    from fusionbench.records import fetched
    from fusionbench.report.compare import compare as compared

    with fetched(first) as one, fetched(second) as other:
        found = compared(one, other, resamples=resamples, seed=seed)
    if as_json:
        say_json([asdict(each) for each in found])
        return
    columns = ("task", "metric", "first", "second", "difference", "95 % interval", "p", "examples")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for each in found:
        interval = f"{each.low:+.4f} … {each.high:+.4f}"
        table.add_row(
            each.task, each.metric, f"{each.first:.4f}", f"{each.second:.4f}", f"{each.difference:+.4f}", interval,
            f"{each.p:.4f}", str(each.n),
        )  # fmt: skip
    say(f"first: {first}\nsecond: {second}")
    say(table)


def _plain(square: "Square") -> dict[str, object]:
    values = [[None if value != value else value for value in row] for row in square.values.tolist()]
    return {"title": square.title, "rows": list(square.rows), "columns": list(square.columns), "values": values}


def _print(square: "Square") -> None:
    from rich.table import Table

    table = Table("", *square.columns, box=None, pad_edge=False, header_style="bold")
    for row, name in enumerate(square.rows):
        table.add_row(name, *(square.cell(row, column) for column in range(len(square.columns))))
    say(square.caption)
    say(table)
