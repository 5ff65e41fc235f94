"""`merge`: checkpoints in, one checkpoint out."""

from pathlib import Path
from typing import Annotated

import typer

from fusionbench.cli.console import note, progress, say

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as method=ties method.density=0.2")]


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command(
        epilog="Example: fusionbench merge base=./base experts.math=./math experts.code=./code method=ties --out merged"
    )(merge)


def merge(
    overrides: Overrides = None,
    recipe: Annotated[Path | None, typer.Option("-r", "--recipe", help="YAML of a recipe.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the merged model; must not exist.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the recipe, write nothing.")
    ] = False,
) -> None:
    """Merge checkpoints tensor by tensor, from disk to disk."""
    from time import perf_counter

    from fusionbench.config import Recipe
    from fusionbench.errors import ConfigError
    from fusionbench.merge import merge as merge_recipe, open_pool, plan_of

    loaded = Recipe.load(recipe, overrides or [])
    if dry_run:
        plan = plan_of(loaded, open_pool(loaded))
        for line in plan.notes:
            note(line)
        say(loaded.to_yaml())
        return
    folder = out or (Path(loaded.output.folder) if loaded.output.folder else None)
    if folder is None:
        raise ConfigError("Say where the merged model goes: add --out FOLDER.")
    started = perf_counter()
    with progress() as advance:
        merged = merge_recipe(loaded, folder, advance)
    for line in merged.notes:
        note(line)
    seconds = perf_counter() - started
    say(
        f"Merged {len(loaded.experts)} experts by {loaded.method.name} into {merged.folder}: {merged.parameters:,} "
        f"parameters, {merged.bytes / 1e6:,.1f} MB, in {seconds:.1f} s ({merged.passes} passes over the inputs)."
    )
