"""What each method gave here and what the papers print of it: from the record files and the experiments' files."""

from collections.abc import Iterator
from typing import Any

from family_results import spread
from result_files import origin, read

from fusionbench.experiments.model import Experiment, load_experiment, names

STAND_IN = "multi-task-clip-b32"
SEEDS = "mini-clip-small-seeds"
SINGLE = ("mini-clip-small-0-methods", "mini-clip-small-0-adaptive", "mini-clip-small-0-others")


def numbers(method: str) -> str:
    """Return a method's figures: over suite seeds, of one seed, and beside the printed ones; and where it is printed."""
    lines = [*_over_seeds(method), *_of_one_seed(method), *_beside_the_printed(method)]
    table = ["| where | here | printed |", "|---|---|---|", *lines] if lines else ["Not measured on the suites so far."]
    found = [experiment.name for experiment in map(load_experiment, names()) if _named(experiment, method)]
    links = ", ".join(f"[{name}](../experiments/{name}.md)" for name in found)
    printed = f"Rows of it in experiments: {links}." if found else "The papers' tables have no row of it."
    return "\n".join([*table, "", printed])


def _named(experiment: Experiment, method: str) -> bool:
    return any(row.method.get("name") == method for row in experiment.rows)


def _is_of(label: str, method: str) -> bool:
    return label.split(" ", 1)[0] == method


def _settings(label: str) -> str:
    return label.split(" ", 1)[1].strip("()") if " " in label else "defaults"


def _over_seeds(method: str) -> Iterator[str]:
    for row in read(SEEDS)["values"]["rows"]:
        if _is_of(row["label"], method):
            seeds = len(row["seeds"])
            where = f"`mini/clip` small, {seeds} suite seeds, {_settings(row['label'])}"
            yield f"| {where} | {spread([100 * value for value in row['averages']], 1)} | – |"


def _of_one_seed(method: str) -> Iterator[str]:
    measured = {row["label"] for row in read(SEEDS)["values"]["rows"]}
    for record in map(read, SINGLE):
        for row in record["values"]["rows"]:
            if _is_of(row["label"], method) and row["label"] not in measured:
                measured.add(row["label"])
                yield f"| `mini/clip` small, seed 0, {_settings(row['label'])} | {100 * row['average']:.1f} | – |"


def _beside_the_printed(method: str) -> Iterator[str]:
    experiment = load_experiment(STAND_IN)
    methods: dict[str, Any] = {row.label: row.method.get("name") for row in experiment.rows}
    record = read(f"answer-{STAND_IN}-mini")
    for row in record["values"]["rows"]:
        if methods.get(row["label"]) == method:
            where = f"[{STAND_IN}](../experiments/{STAND_IN}.md) on its offline stand-in, {row['label']}"
            yield f"| {where} | {row['average']:.1f} | {row['printed']:.1f} |"


def note() -> str:
    """Return what the figures mean and where they come from."""
    return "\n".join(f"- {origin(read(name))}" for name in (SEEDS, *SINGLE, f"answer-{STAND_IN}-mini"))
