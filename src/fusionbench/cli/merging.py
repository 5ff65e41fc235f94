"""`merge` and `inspect`: checkpoints in, one checkpoint or a look at them out. No torch here."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusionbench.cli.console import counted, note, progress, say, say_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusionbench.compat import Stage
    from fusionbench.config import Recipe
    from fusionbench.forecast import Forecast
    from fusionbench.weights.inspection import Inspection

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as method=ties method.density=0.2")]


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command(
        epilog="Example: fusionbench merge base=./base experts.math=./math experts.code=./code method=ties --out merged"
    )(merge)
    application.command(
        epilog="Example: fusionbench plan base=./base experts.math=./math experts.code=./code method=ties"
    )(plan)
    application.command(epilog="Example: fusionbench inspect ./base ./math ./code --norms")(inspect)


def merge(
    overrides: Overrides = None,
    recipe: Annotated[Path | None, typer.Option("-r", "--recipe", help="YAML of a recipe, ours or mergekit's.")] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the merged model, which must not exist; or an address.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the recipe, write nothing.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read the output back and compare; the lock gets the SHA-256 of every file."),
    ] = False,
) -> None:
    """Merge checkpoints tensor by tensor, from disk to disk."""
    from time import perf_counter

    from fusionbench.compat import load_stages
    from fusionbench.errors import ConfigError
    from fusionbench.records import output_place
    from fusionbench.records.places import published_model
    from fusionbench.stages import merge_stages
    from fusionbench.weights.lock import LOCK

    stages = load_stages(recipe, overrides or [])
    loaded = stages[-1].recipe
    for line in dict.fromkeys(line for stage in stages for line in stage.notes):
        note(line)
    if dry_run:
        _say_plan(stages)
        return
    for stage in stages:
        _refuse_idle(stage.recipe)
    name = out or loaded.output.folder
    if name is None:
        raise ConfigError("Say where the merged model goes: add --out FOLDER.")
    place = output_place(name)
    started = perf_counter()
    with published_model(place, last=LOCK) as folder, progress() as advance:
        merged, reused = merge_stages(stages, folder, advance, digest=verify)
    for line in reused:
        note(line)
    for line in merged.notes:
        note(line)
    seconds = perf_counter() - started
    say(
        f"Merged {counted(len(loaded.experts), 'expert')} by {loaded.method.name} into {place}: "
        f"{counted(merged.parameters, 'parameter')}, {merged.bytes / 1e6:,.1f} MB, in {seconds:.1f} s "
        f"({counted(merged.passes, 'pass')} over the inputs)."
    )


def _say_plan(stages: "Sequence[Stage]") -> None:
    """Print the recipes of a merge, and what is to be known of it."""
    from fusionbench.compat import to_yaml
    from fusionbench.stages import notes_of

    for stage in stages:
        if stage.needs:
            note(f"{stage.name or 'the output'} is planned when {', '.join(sorted(stage.needs))} is made.")
            continue
        for line in notes_of(stage.recipe):
            note(line)
    say(stages[-1].recipe.to_yaml() if len(stages) == 1 else to_yaml(stages))


def _refuse_idle(recipe: "Recipe") -> None:
    """Refuse what a merge of files has no use for, rather than ignore it.

    Raises:
        ConfigError: naming the keys.
    """
    from fusionbench.errors import ConfigError

    idle = sorted(recipe.model_fields_set & {"suite", "tasks"})
    idle += [] if recipe.output.model else ["output.model=false"]
    if idle:
        raise ConfigError(f"{', '.join(idle)}: merge only writes a model; to evaluate it as well use: fusionbench run.")


def plan(
    overrides: Overrides = None,
    recipe: Annotated[Path | None, typer.Option("-r", "--recipe", help="YAML of a recipe, ours or mergekit's.")] = None,
    out: Annotated[Path, typer.Option(help="Where the merged model would go.")] = Path("merged"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict a merge's time, memory and disk. From headers, also of hub models, and a short trial run."""
    from dataclasses import asdict

    from fusionbench.compat import load_stages
    from fusionbench.forecast import forecast

    stages = load_stages(recipe, overrides or [])
    found = {stage.name or "the output": forecast(stage.recipe, out) for stage in stages if not stage.needs}
    if as_json:
        say_json({name: asdict(each) for name, each in found.items()})
        return
    for name, each in found.items():
        _say_forecast(name, each)
        if each.written > each.free:
            note(f"{name} does not fit on the disk of {out}.")
    for stage in stages:
        if stage.needs:
            note(f"{stage.name or 'the output'} is known when {', '.join(sorted(stage.needs))} is made.")


def _say_forecast(name: str, found: "Forecast") -> None:
    """Print what a merge reads and writes, and what it takes on each device."""
    from rich.table import Table

    say(
        f"{name}: {counted(found.parameters, 'parameter')} in {counted(found.tensors, 'tensor')}\n"
        f"  reads    {found.read / 1e6:,.0f} MB in each pass\n"
        f"  writes   {found.written / 1e6:,.0f} MB; {found.free / 1e6:,.0f} MB are free"
    )
    if found.fetched:
        say(f"  fetches  {found.fetched / 1e6:,.0f} MB from the hub first, which are not on this machine")
    table = Table("device", "passes", "seconds", "MB of memory", "rehearsed", box=None, header_style="bold")
    for device, cost in found.devices.items():
        table.add_row(
            device, str(cost.passes), f"{cost.seconds:,.1f}", f"{cost.memory / 1e6:,.0f}", f"{cost.rehearsed:.1%}"
        )
    say(table)
    where = "with the inputs in memory" if found.held or found.reading is None else "from the disk in every pass"
    adds = f"; reading them from the disk adds {found.reading:,.1f} s" if found.held and found.reading else ""
    say(f"  seconds are {where}{adds}; memory is beside mapped files")


def inspect(
    models: Annotated[list[str], typer.Argument(help="Folders, files or hub ids; the first is the base.")],
    norms: Annotated[
        bool, typer.Option("--norms", help="Read all tensors and show how far each model is from the base.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what models are and whether they fit together. And what a merge would cost; exit code 2 where not."""
    from dataclasses import asdict

    from fusionbench.merge import tower_of
    from fusionbench.weights.inspection import distances
    from fusionbench.weights.inspection import inspect as look
    from fusionbench.weights.remote import open_headers
    from fusionbench.weights.sources import open_source

    # Norms need every number, and so the whole model on this machine.
    sources = [(open_source if norms else open_headers)(model) for model in models]
    tower = tower_of(sources[0])
    found = look(sources, tower=tower)
    measured = sources[1:] if norms and not found.misfits else []
    far = {source.label: distances(sources[0], source, tower=tower) for source in measured}
    if as_json:
        say_json({**asdict(found), "distances": far})
    else:
        _say_inspection(found, far)
    if found.misfits:
        raise typer.Exit(2)


def _say_inspection(found: "Inspection", far: "Mapping[str, Mapping[str, float]]") -> None:
    """Print the facts of each model, what does not fit, notes, and the cost of a merge."""
    from rich.table import Table

    columns = (
        "model",
        "architecture",
        "tensors",
        "parameters",
        "MB",
        "kinds",
        "largest",
        *(("‖Δ‖ / ‖base‖",) if far else ()),
    )
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for facts in found.facts:
        ratio = (f"{far[facts.label]['ratio']:.4f}" if facts.label in far else "",) if far else ()
        table.add_row(
            facts.label, facts.architecture, f"{facts.tensors:,}", f"{facts.parameters:,}", f"{facts.bytes / 1e6:,.1f}",
            ", ".join(facts.dtypes), facts.largest, *ratio,
        )  # fmt: skip
    say(table)
    for line in (*found.misfits, *(f"note: {text}" for text in found.notes)):
        say(line)
    if len(found.facts) > 1 and not found.misfits:
        say(
            f"They fit. A merge would read {found.cost['read'] / 1e6:,.0f} MB and write "
            f"{found.cost['written'] / 1e6:,.0f} MB: about {found.cost['seconds']:.1f} s a pass, "
            f"{found.cost['memory'] / 1e6:,.0f} MB of memory."
        )
