"""`convert`: a peer's recipe in, ours out. No torch here."""

from pathlib import Path
from typing import Annotated

import typer

from fusionbench.cli.console import note


def add_to(application: typer.Typer) -> None:
    """Add this group's verb."""
    application.command(epilog="Example: fusionbench convert theirs.yml > ours.yml")(convert)


def convert(
    recipe: Annotated[Path | None, typer.Argument(help="YAML of a recipe: mergekit's, or ours.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, ours or fusion-bench's; applied over the recipe.")
    ] = None,
) -> None:
    """Print mergekit's recipe or fusion-bench's command as ours."""
    import sys

    from fusionbench.compat import load_stages, to_yaml

    texts = list(overrides or [])
    if recipe is not None and "=" in str(recipe):
        texts, recipe = [str(recipe), *texts], None
    stages = load_stages(recipe, texts)
    for line in dict.fromkeys(line for stage in stages for line in stage.notes):
        note(line)
    sys.stdout.write(to_yaml(stages))
