"""`verify` and `remake`: is a folder what it says it is? No torch here but where a run is made once more."""

from pathlib import Path
from typing import Annotated

import typer

from fusionbench.cli.console import complain, note, progress, say, say_json

Folder = Annotated[Path, typer.Argument(help="A folder that fusionbench merge wrote, or one of a run.")]


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command(epilog="Example: fusionbench verify ./merged")(verify)
    application.command(epilog="Example: fusionbench remake ./merged")(remake)


def verify(
    folder: Annotated[
        str,
        typer.Argument(
            help="A folder that fusionbench merge wrote, or one of a run; also an address, such as s3://bucket/merged."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Compare a merged folder's files with its fusion.lock.json. Exit code 2 where one has changed."""
    from dataclasses import asdict

    from fusionbench.provenance import verify as check
    from fusionbench.records import Remote, is_address

    found = check(Remote.at(folder, "copies") if is_address(folder) else Path(folder))
    if as_json:
        say_json(asdict(found))
    else:
        for line in found.inputs:
            note(line)
        for line in found.outputs:
            complain(line)
        if not found.outputs:
            how = "every byte" if found.full else "sizes, headers and samples; merge with --verify for every byte"
            say(f"{folder} is as its lock says ({how}).")
    if found.outputs:
        raise typer.Exit(2)


def remake(folder: Folder) -> None:
    """Make a merged folder or a run once more and compare. From its recipe; exit code 2 where something differs."""
    from fusionbench.provenance import is_merged
    from fusionbench.provenance import remake as make_again

    with progress() as advance:
        if is_merged(folder):
            differences = make_again(folder, advance)
        else:
            from fusionbench.run.again import remake_run

            differences = remake_run(folder, advance)
    for line in differences:
        complain(line)
    if differences:
        raise typer.Exit(2)
    say(
        f"{folder} was made once more from the same inputs: every {'file' if is_merged(folder) else 'result'} is equal."
    )
