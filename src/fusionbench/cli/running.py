"""`quickstart`, `run` and `evaluate`: from a suite or a recipe to a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusionbench.cli.console import complain, local_folder, note, progress, say, say_json

if TYPE_CHECKING:
    from fusionbench.records import Remote

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as suite=mini/clip method=ties")]
Force = Annotated[bool, typer.Option("--force", help="Repeat finished runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command(epilog="Example: fusionbench quickstart")(quickstart)
    application.command(
        epilog="Example: fusionbench run suite=mini/clip method=task_arithmetic method.scale=0.1,0.3,0.5 -m"
    )(run)
    application.command(epilog="Example: fusionbench evaluate ./merged suite=mini/clip")(evaluate)


def run(
    overrides: Overrides = None,
    recipe: Annotated[Path | None, typer.Option("-r", "--recipe", help="YAML of a recipe.")] = None,
    multirun: Annotated[bool, typer.Option("-m", "--multirun", help="One run for each combination of values.")] = False,
    out: Annotated[
        str | None,
        typer.Option(help="The run's own folder; with -m that of all runs; also an address, such as s3://bucket/runs."),
    ] = None,
    force: Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the recipes, run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Fuse the models of a suite or a recipe and evaluate. The report is kept."""
    from fusionbench.compat import load_recipe
    from fusionbench.overrides import sweep

    given = overrides or []
    loaded = [load_recipe(recipe, each) for each in (sweep(given) if multirun else [given])]
    recipes = [found for found, _ in loaded]
    for line in dict.fromkeys(line for _, notes in loaded for line in notes):
        note(line)
    if dry_run:
        say("---\n".join(each.to_yaml() for each in recipes))
        return
    from fusionbench.records import Remote, output_place
    from fusionbench.run import run as run_recipe

    place = output_place(out) if out else None
    if multirun:
        _run_many(recipes, place or Path("runs") / "sweep", force=force, as_json=as_json)
        return
    with progress() as advance:
        result = run_recipe(recipes[0], out=place, force=force, progress=advance)
    folder = place if isinstance(place, Remote) else result.folder
    if as_json:
        say_json(result.report.model_dump(by_alias=True))
        return
    if result.reused:
        note(f"{folder} holds this run already; its table is printed again. --force makes it anew.")
    _tables([result.folder])
    say(f"Report: {folder}/report.json")


def quickstart(
    overrides: Overrides = None,
    out: Annotated[str, typer.Option(help="Folder of the runs and the page.")] = "runs/quickstart",
    force: Force = False,
) -> None:
    """Fuse and evaluate eight small CLIP models by three methods. Offline; it writes a table and a page."""
    from fusionbench.config import Recipe
    from fusionbench.records import output_place

    rows: list[list[str]] = [
        ["method=pretrained"],
        ["method=individual"],
        ["method=simple_average"],
        ["method=task_arithmetic", "method.scale=0.3"],
        ["method=ties", "method.density=0.2", "method.scale=1.0"],
    ]
    recipes = [Recipe.load(None, ["suite=mini/clip", *row, *(overrides or [])]) for row in rows]
    _run_many(recipes, output_place(out), force=force)


def _run_many(recipes: list[Any], out: "Path | Remote", *, force: bool, as_json: bool = False) -> None:
    """Run recipes below one folder and write its table, figures and page; as JSON, print a list of their reports."""
    from fusionbench.records import local_of, publish_files
    from fusionbench.report import report
    from fusionbench.sweep import run_all

    done, failed = [], 0
    with progress() as advance:
        for outcome in run_all(recipes, out, force=force, progress=advance):
            if outcome.result is None:
                failed += 1
                complain(f"{outcome.recipe.method.name}: {outcome.error}")
            else:
                done.append(outcome.result)
    folders = [result.folder for result in done]
    if as_json:
        say_json([result.report.model_dump(by_alias=True) for result in done])
    elif folders:
        _tables(folders)
    written = report(folders, ("md", "csv", "png", "html"), local_of(out) / "report") if folders else []
    for path in publish_files(out, written):
        (note if as_json else say)(f"Wrote {path}")
    if failed:
        complain(f"{failed} of {len(recipes)} runs failed; the others are kept in {out}.")
        raise typer.Exit(2)


def evaluate(
    model: Annotated[str, typer.Argument(help="A folder, a file or a hub id.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as suite=mini/clip tasks.limit=100")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=local_folder, help="Folder that keeps report and rows; with a launcher runs/evaluated/<8 hex>."
        ),
    ] = None,
    preference: Annotated[
        str | None, typer.Option(help="For a model of pwe_moe: one weight an expert, as 0.2,0.8; else equal ones.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score one model on the tasks of a suite."""
    from fusionbench.config import Recipe
    from fusionbench.errors import ConfigError
    from fusionbench.run import evaluate_model

    asked = Recipe.load(None, ["method=pretrained", *(overrides or [])])
    if asked.suite is None:
        raise ConfigError("Say on what: add suite=NAME, such as suite=mini/clip.")
    idle = sorted(asked.model_fields_set - {"suite", "tasks", "runtime", "method"})
    if idle or asked.method.name != "pretrained":
        raise ConfigError(
            f"{', '.join(idle) or 'method'}: evaluate scores the model as it is; it takes suite, tasks and runtime."
        )
    with progress() as advance:
        found = evaluate_model(
            model, asked.suite, asked.tasks, advance, runtime=asked.runtime, out=out, preference=_numbers(preference)
        )
    if as_json:
        say_json(found.model_dump(by_alias=True))
        return
    from rich.table import Table

    table = Table("task", "metric", "value", "± s.e.", "examples", box=None, pad_edge=False, header_style="bold")
    for task, scores in found.tasks.items():
        for metric, score in scores.metrics.items():
            error = "" if score.stderr is None else f"{score.stderr:.4f}"
            table.add_row(task, metric, "" if score.value is None else f"{score.value:.4f}", error, str(score.n))
    say(table)
    if found.primary_average is not None:
        say(f"Average {found.primary_average.metric} of the seen tasks: {found.primary_average.value:.4f}")


def _numbers(preference: str | None) -> list[float] | None:
    from fusionbench.errors import ConfigError

    try:
        return None if preference is None else [float(part) for part in preference.split(",")]
    except ValueError:
        raise ConfigError(f"--preference {preference}: expected one number an expert, as 0.2,0.8.") from None


def _tables(folders: list[Path]) -> None:
    from fusionbench.records import find_runs
    from fusionbench.report import as_rich, tables_of

    for table in tables_of(find_runs(folders)):
        say(as_rich(table))
