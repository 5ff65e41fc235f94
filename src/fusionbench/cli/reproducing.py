"""`reproduce`: a table or figure of the papers, on their own suite or on its offline stand-in."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fusionbench.cli.console import complain, note, progress, say, say_json


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command(epilog="Example: fusionbench reproduce multi-task-clip-b32 --suite mini --profile quick")(
        reproduce
    )


def reproduce(
    name: Annotated[str, typer.Argument(help="An experiment, see fusionbench list experiments; or a YAML file.")],
    suite: Annotated[
        str, typer.Option(help="paper: checkpoints and data of the hub; mini: the offline stand-in.")
    ] = "paper",
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; by default runs/<name>.")] = None,
    profile: Annotated[str | None, typer.Option(help="A shorter schedule that the experiment names.")] = None,
    seed: Annotated[int, typer.Option(help="Of the recipes and of the stand-in's build.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the recipes, run nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the values as JSON.")] = False,
) -> None:
    """Run an experiment of the papers and set its values beside the printed ones."""
    from dataclasses import asdict

    from fusionbench.errors import ConfigError
    from fusionbench.experiments.model import load_experiment, points
    from fusionbench.experiments.rendering import as_csv, as_html, as_latex, as_markdown
    from fusionbench.experiments.reproduce import reproduce as carry_out
    from fusionbench.records import write_whole

    if suite not in ("paper", "mini"):
        raise ConfigError(f"--suite {suite}: choose paper or mini.")
    which: Literal["paper", "mini"] = "mini" if suite == "mini" else "paper"
    experiment = load_experiment(name)
    if dry_run:
        for point in points(experiment, stand_in=which == "mini", profile=profile, seed=seed):
            say(f"# {point.row.label}\n{point.load().to_yaml()}---")
        return
    place = out or Path("runs") / f"{experiment.name}-{which}"
    with progress() as advance:
        answer = carry_out(experiment, place, which=which, profile=profile, seed=seed, progress=advance)
    for reason in answer.failed.values():
        complain(reason)
    written = [
        write_whole(place / f"answer.{ending}", write(answer))
        for ending, write in (("md", as_markdown), ("csv", as_csv), ("tex", as_latex), ("html", as_html))
    ]
    if as_json:
        say_json({"lines": [asdict(line) for line in answer.lines], "failed": dict(answer.failed)})
        return
    say(as_markdown(answer))
    note(f"Wrote {', '.join(path.name for path in written)} into {place}.")
