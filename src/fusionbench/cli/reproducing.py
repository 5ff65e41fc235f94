"""`reproduce`: a table or figure of the papers, on their own suite or on its offline stand-in."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fusionbench.cli.console import complain, note, progress, say, say_json

if TYPE_CHECKING:
    from fusionbench.config import RuntimeConfig
    from fusionbench.experiments.model import Experiment
    from fusionbench.experiments.reproduce import Answer

Name = Annotated[
    str,
    typer.Argument(
        help="An experiment, see fusionbench list experiments; its YAML file; or the folder of a merge or a run, "
        "which is made once more and compared, as by fusionbench remake."
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="How the runs are done, such as launcher=processes launcher.workers=4")
]
Which = Annotated[str, typer.Option(help="paper: checkpoints and data of the hub; mini: the offline stand-in.")]
Out = Annotated[str | None, typer.Option(help="Folder of the runs, or an address; by default runs/<name>-<suite>.")]
Seeds = Annotated[str, typer.Option(help="Seeds of recipes and stand-in builds; several, with commas, give means.")]


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command(epilog="Example: fusionbench reproduce multi-task-clip-b32 --suite mini --profile quick")(
        reproduce
    )


def reproduce(
    name: Name,
    overrides: Overrides = None,
    suite: Which = "paper",
    out: Out = None,
    profile: Annotated[str | None, typer.Option(help="A shorter schedule that the experiment names.")] = None,
    size: Annotated[str | None, typer.Option(help="Size of the stand-in: tiny, small or large.")] = None,
    seeds: Seeds = "0",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the recipes, run nothing.")] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Also write the figures as a Plotly page (5 MB).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the values as JSON.")] = False,
) -> None:
    """Run a paper's experiment, its values beside the printed ones."""
    from fusionbench.config import RuntimeConfig
    from fusionbench.errors import ConfigError
    from fusionbench.experiments.model import names
    from fusionbench.experiments.rendering import as_markdown
    from fusionbench.experiments.reproduce import reproduce as carry_out
    from fusionbench.records import local_of, output_place, publish_files

    # A folder of runs may well be called as its experiment is.
    if name not in names() and Path(name).is_dir():
        from fusionbench.cli.trusting import remake

        remake(Path(name))
        return
    if suite not in ("paper", "mini"):
        raise ConfigError(f"--suite {suite}: choose paper or mini.")
    which: Literal["paper", "mini"] = "mini" if suite == "mini" else "paper"
    experiment, numbers, runtime = _sized(name, which, size), _numbers(seeds), RuntimeConfig.load(overrides or [])
    if dry_run:
        _say_recipes(experiment, which, profile, numbers, runtime)
        return
    place = output_place(out or f"runs/{experiment.name}-{which}")
    with progress() as advance:
        answer = carry_out(
            experiment, place, which=which, profile=profile, seeds=numbers, runtime=runtime, progress=advance
        )
    # What an experiment says that nobody can run is no error of this run.
    known = {reason for row in experiment.rows if (reason := row.missing(stand_in=which == "mini"))}
    for label, reason in answer.failed.items():
        tell = note if reason in known else complain
        tell(f"{label}: {reason}")
    written = publish_files(place, _write(answer, local_of(place), interactive=interactive))
    if as_json:
        say_json(_plain(answer))
        return
    say(as_markdown(answer))
    note(f"Wrote {', '.join(name.rpartition('/')[2] for name in written)} into {place}.")


def _sized(name: str, which: Literal["paper", "mini"], size: str | None) -> "Experiment":
    """Return an experiment, its stand-in of the size that is asked for."""
    from fusionbench.errors import ConfigError
    from fusionbench.experiments.model import load_experiment, with_size

    experiment = load_experiment(name)
    if size is None:
        return experiment
    if which == "paper":
        raise ConfigError(f"--size {size}: the papers' suite has one size; add --suite mini.")
    return with_size(experiment, size)


def _say_recipes(
    experiment: "Experiment",
    which: Literal["paper", "mini"],
    profile: str | None,
    seeds: tuple[int, ...],
    runtime: "RuntimeConfig",
) -> None:
    """Print the recipe of every run, without what is selected first."""
    from fusionbench.experiments.model import points
    from fusionbench.experiments.reproduce import of_matrix

    for seed in seeds:
        if experiment.kind in ("transfer", "cosine"):
            asked = of_matrix(experiment, stand_in=which == "mini", seed=seed, runtime=runtime)
            say(f"# each model of the suite\n{asked.to_yaml()}---")
        for point in points(experiment, stand_in=which == "mini", profile=profile, seed=seed):
            loaded = point.load(runtime=runtime.model_dump(mode="json"))
            say(f"# {point.row.label}\n{loaded.to_yaml()}---")


def _write(answer: "Answer", place: Path, *, interactive: bool) -> list[Path]:
    """Write the answer in every form, and its figures; return the files."""
    from fusionbench.experiments.figures import figures_of
    from fusionbench.experiments.page import as_html
    from fusionbench.experiments.rendering import as_csv, as_latex, as_markdown
    from fusionbench.records import write_whole
    from fusionbench.report.interactive import interactive_page
    from fusionbench.report.plots import save

    charts = figures_of(answer)
    texts = {"md": as_markdown(answer), "csv": as_csv(answer), "tex": as_latex(answer), "html": as_html(answer, charts)}
    written = [write_whole(place / f"answer.{ending}", text) for ending, text in texts.items()]
    written += [save(chart, place, kind) for chart in charts for kind in ("png", "pdf")]
    if interactive:
        written.append(write_whole(place / "interactive.html", interactive_page(answer.experiment.name, charts)))
    return written


def _plain(answer: "Answer") -> dict[str, object]:
    """Return the answer's values as plain data."""
    from dataclasses import asdict

    return {
        "lines": [asdict(line) for line in answer.lines],
        "failed": dict(answer.failed),
        "rankings": [asdict(order) for order in answer.rankings],
        "claims": [{**asdict(claim), "holds": claim.holds} for claim in answer.claims],
    }


def _numbers(seeds: str) -> tuple[int, ...]:
    """Return the seeds of an option such as "0,1,2"."""
    from fusionbench.errors import ConfigError

    try:
        return tuple(int(word) for word in seeds.split(","))
    except ValueError:
        raise ConfigError(f"--seeds {seeds}: write whole numbers with commas, such as 0,1,2.") from None


def show_experiment(name: str) -> None:
    """Print what an experiment runs: its suites, the published files, what varies, and each row's method."""
    from rich.table import Table

    from fusionbench.experiments.model import load_experiment

    found = load_experiment(name)
    facts = {
        "answers": ", ".join([*found.published, *found.figures]),
        "suite": _words(found.suite),
        "with": _words(found.settings),
        "stand-in": _words(found.stand_in),
        "profiles": ", ".join(found.shorter),
        "varies": "; ".join(f"{key}: {', '.join(map(str, values))}" for key, values in found.vary.items()),
    }
    say("\n".join(f"  {key:9}{value}" for key, value in facts.items() if value))
    if found.rows:
        table = Table("row", "method", "parameters", box=None, pad_edge=False, header_style="bold")
        for row in found.rows:
            parameters = {key: value for key, value in row.method.items() if key != "name"}
            chosen = {key: f"one of {', '.join(map(str, grid))} on validation data" for key, grid in row.select.items()}
            table.add_row(row.label, str(row.method["name"]), _words({**parameters, **row.settings, **chosen}))
        say(table)


def _words(values: Mapping[str, object]) -> str:
    return ", ".join(
        _words({f"{key}.{inner}": held for inner, held in value.items()})
        if isinstance(value, Mapping)
        else f"{key}={value}"
        for key, value in values.items()
    )
