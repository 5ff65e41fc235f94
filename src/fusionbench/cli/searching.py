"""`search`: parameters chosen on validation data, then one evaluation on the test split."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fusionbench.cli.console import note, progress, say, say_json


class SamplerName(StrEnum):
    """How the next trial is drawn."""

    tpe = "tpe"
    cmaes = "cmaes"
    nsga2 = "nsga2"
    random = "random"


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command(
        epilog="Example: fusionbench search suite=mini/clip method=ties 'method.scale=interval(0.1,1.5)' "
        "method.combine=sum,mean --trials 30"
    )(search)


def search(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value; searched are values with commas, interval(low,high), log(low,high), whole(low,high), "
            "each(low,high): one an expert, layers(low,high,points): a gradient over depth."
        ),
    ] = None,
    recipe: Annotated[Path | None, typer.Option("-r", "--recipe", help="YAML of a recipe.")] = None,
    out: Annotated[str, typer.Option(help="Folder of the search; the same command resumes it.")] = "runs/search",
    trials: Annotated[int, typer.Option(help="Trials in all, those of earlier calls included.", min=1)] = 30,
    sampler: Annotated[
        SamplerName, typer.Option(help="How trials are drawn; nsga2 for several objectives.")
    ] = SamplerName.tpe,
    objective: Annotated[
        list[str] | None, typer.Option(help="average (the default), or a task; several may be given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search a method's parameters on the validation split. Optuna draws them; the best is scored once on test."""
    import json

    from fusionbench.errors import ConfigError
    from fusionbench.records import find_runs, is_address
    from fusionbench.report import as_rich, tables_of
    from fusionbench.sweep import search as run_search

    if is_address(out):
        raise ConfigError(
            f"--out {out}: a search keeps a database, which needs a folder. Choose one that machines share."
        )
    folder = Path(out)
    with progress() as advance:
        found = run_search(
            recipe, overrides or [], folder, trials=trials, sampler=sampler.value, objectives=objective or ["average"],
            progress=advance,
        )  # fmt: skip
    if as_json:
        say_json(json.loads((folder / "search.json").read_text()))
        return
    for trial in found.trials:
        if trial.error:
            note(f"trial {trial.number} failed: {trial.error}")
    for number in found.best:
        best = found.trials[number]
        values = ", ".join(f"{value:.4f}" for value in best.values or ())
        say(f"Best on the validation split: trial {number} ({values}): {' '.join(best.overrides)}")
    for table in tables_of(find_runs([result.folder for result in found.results])):
        say(as_rich(table))
    say(f"All trials: {folder / 'search.json'}")
