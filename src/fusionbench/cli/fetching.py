"""`fetch`: everything that a suite needs from elsewhere."""

from typing import Annotated

import typer

from fusionbench.cli.console import progress, say


def add_to(application: typer.Typer) -> None:
    """Add this group's verb."""
    application.command(epilog="Example: fusionbench fetch suite=clip-vit-b32/ta8 suite.experts=[mnist,gtsrb]")(fetch)


def fetch(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as suite=gpt2/glue7 suite.experts=[cola]")
    ] = None,
) -> None:
    """Download all models and data of a suite. Or say what is missing; an interrupted download is resumed."""
    from fusionbench.config import Recipe
    from fusionbench.errors import ConfigError, MissingData
    from fusionbench.suites.fetching import fetch_suite
    from fusionbench.suites.load import load_suite

    recipe = Recipe.load(None, [*(overrides or []), "method=pretrained"])
    if recipe.suite is None:
        raise ConfigError("Say what to fetch: add suite=NAME, such as suite=clip-vit-b32/ta8.")
    with progress() as advance:
        found = fetch_suite(load_suite(recipe.suite, progress=advance).suite, advance)
    for item in found:
        say(f"{item.what}: {item.reference} {'is there' if item.problem is None else 'is missing'}")
    missing = [f"  {item.what}: {item.problem}" for item in found if item.problem is not None]
    if missing:
        raise MissingData("\n".join([f"{len(missing)} of {len(found)} could not be had:", *missing]))
