"""What another experiment's finished runs already give: for claims that span two tables. Nothing is run here."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fusionbench.config import Recipe, parse_document
from fusionbench.errors import FusionBenchError
from fusionbench.experiments.answer import Line, values_of
from fusionbench.experiments.model import Experiment, Row, load_experiment, points
from fusionbench.experiments.printed import UNSEEN, printed_of
from fusionbench.experiments.published import AVERAGE
from fusionbench.experiments.seeds import over_seeds
from fusionbench.records import Run, find_runs


def runs_folder(name: str, which: Literal["paper", "mini"]) -> Path:
    """Return the default folder of an experiment's runs."""
    return Path("runs") / f"{name}-{which}"


def lines_elsewhere(
    experiment: Experiment, out: Path, which: Literal["paper", "mini"], profile: str | None, seeds: Sequence[int]
) -> dict[str, list[Line]]:
    """Return the rows of other experiments that an experiment's claims speak of, by the other's name.

    A row is there where the runs of all seeds are finished: in the folder beside `out` that has the other's default
    name, or in its default folder.

    Args:
        experiment: with claims.
        out: folder of its own runs.
        which: suite of both.
        profile: of both.
        seeds: likewise.
    """
    found: dict[str, list[Line]] = {}
    for name in dict.fromkeys(claim.lower_in for claim in experiment.claims if claim.lower_in is not None):
        labels = {label for claim in experiment.claims for label in (claim.lower, claim.less) if claim.lower_in == name}
        default = runs_folder(name, which)
        places = [place for place in dict.fromkeys((out.parent / default.name, default)) if place.is_dir()]
        runs = list(_finished(places))
        other = load_experiment(name)
        found[name] = [
            line
            for row in other.rows
            if row.label in labels and (line := _line(other, row, runs, which, profile, seeds)) is not None
        ]
    return found


def _finished(places: Sequence[Path]) -> Iterator[tuple[dict[str, Any], Run]]:
    """Yield finished runs with what their recipes say of their numbers."""
    for run in find_runs(places):
        try:
            yield _core(Recipe.read(parse_document(run.recipe, "The recipe"), "The recipe")), run
        except FusionBenchError:
            # A run of another version, or without its recipe: none of those that are looked for.
            continue


def _core(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe without where and on what machine it is run, which change no number."""
    document = recipe.dump()
    return {**document, "runtime": None, "output": {**document["output"], "folder": None}}


def _line(
    other: Experiment, row: Row, runs: Sequence[tuple[Mapping[str, Any], Run]], which: str, profile: str | None,
    seeds: Sequence[int],
) -> Line | None:  # fmt: skip
    """Return a row of another experiment from its finished runs; None where the run of a seed is not there."""
    alone = other.model_copy(update={"rows": (row,)})
    chosen = profile if profile in other.shorter else None
    values = []
    for seed in seeds:
        (point,) = points(alone, stand_in=which == "mini", profile=chosen, seed=seed)
        asked = _core(point.load())
        report = next((run.report for core, run in runs if core == asked), None)
        if report is None:
            return None
        values.append(values_of(report))
    printed = printed_of(other, row, {})
    if which == "mini":
        printed = {name: value for name, value in printed.items() if name in (AVERAGE, UNSEEN)}
    return Line(row.label, {}, over_seeds(values), printed, {})
