"""The application and its verbs; each verb's module is a command group."""

from typing import Annotated

import typer

from fusionbench.cli import (
    analyzing,
    converting,
    fetching,
    listing,
    merging,
    reporting,
    reproducing,
    running,
    searching,
    trusting,
    tuning,
)

application = typer.Typer(
    name="fusionbench",
    help="Fuse deep models (ensembles, merges, mixes) and benchmark the result.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (
    running,
    searching,
    merging,
    trusting,
    converting,
    fetching,
    tuning,
    reporting,
    reproducing,
    analyzing,
    listing,
):
    group.add_to(application)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"fusionbench {version('fusionbench')}")
        raise typer.Exit


@application.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fuse deep models (ensembles, merges, mixes) and benchmark the result."""
