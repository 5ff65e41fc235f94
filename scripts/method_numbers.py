"""What each method gave here and what the papers print of it: from the record files and the experiments' files."""

from collections.abc import Iterator, Mapping
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple

from experiments_table import every_experiment
from family_results import spread
from result_files import origin, read

from fusionbench.experiments.model import Experiment

STAND_IN = "multi-task-clip-b32"
SEEDS = "mini-clip-small-seeds"
METHODS = "mini-clip-small-0-methods"
SINGLE = (METHODS, "mini-clip-small-0-adaptive", "mini-clip-small-0-others", "mini-clip-small-0-few")
REFERENCES = ("pretrained", "individual", "traditional_mtl")
LANGUAGE = ("depth_upscaling", "moe_merging")
UNMEASURED = {
    "moe_upscaling": "Not measured: the sparse model gives the dense one's answers until it is trained further.",
    "passthrough": "Not measured: alone it copies a model, and layers of several make one that needs more training.",
}
SHOWN = 4
"""Most links that stand open on a page."""


class Line(NamedTuple):
    """One figure of a method: under which conditions, what it was here, and what a paper prints ("" for nothing)."""

    where: str
    here: str
    printed: str = ""


def numbers(method: str) -> str:
    """Return a method's figures: over suite seeds, of one seed, and beside the printed ones; and where it is printed.

    The page `references` is that of all reference rows: its lines name theirs.
    """
    wanted = REFERENCES if method == "references" else (method,)
    lines = [line for name in wanted for line in (*_over_seeds(name), *_of_one_seed(name), *_beside_the_printed(name))]
    return "\n".join([*(_table(lines) or _elsewhere(method)), "", *_experiments(wanted)])


def _table(lines: list[Line]) -> list[str]:
    """Return the lines as a table; where no paper prints any of them, without that column; of none, nothing."""
    if not lines:
        return []
    if not any(line.printed for line in lines):
        return ["| where | here |", "|---|---|", *(f"| {line.where} | {line.here} |" for line in lines)]
    rows = (f"| {line.where} | {line.here} | {line.printed or '–'} |" for line in lines)
    return ["| where | here | printed, on the papers' models |", "|---|---|---|", *rows]


def _elsewhere(method: str) -> list[str]:
    if method in LANGUAGE:
        return ["Measured on language models: [what came out](../guides/causal-language-models.md#what-came-out)."]
    return [UNMEASURED.get(method, "Not measured on `mini/clip`.")]


def _experiments(wanted: tuple[str, ...]) -> list[str]:
    """Return links to the experiments with a row of it, folded away where they would fill a telephone's screen."""
    found = [experiment.name for experiment in every_experiment() if _named(experiment, wanted)]
    links = ", ".join(f"[{name}](../experiments/{name}.md)" for name in found)
    if not found:
        return ["No experiment reproduces a printed row of it."]
    if len(found) <= SHOWN:
        return [f"Experiments with a row of it: {links}."]
    summary = f"<summary>{len(found)} experiments have a row of it</summary>"
    return ['<details markdown="1">', summary, "", f"{links}.", "", "</details>"]


def _named(experiment: Experiment, wanted: tuple[str, ...]) -> bool:
    return any(row.method.get("name") in wanted for row in experiment.rows)


def _is_of(label: str, method: str) -> bool:
    return label.split(" ", 1)[0] == method


def _settings(label: str) -> str:
    if label in REFERENCES:
        return f"`{label}`"
    return label.split(" ", 1)[1].strip("()") if " " in label else "defaults"


def _over_seeds(method: str) -> Iterator[Line]:
    for row in read(SEEDS)["values"]["rows"]:
        if _is_of(row["label"], method):
            seeds = len(row["seeds"])
            where = f"`mini/clip` small, {seeds} suite seeds, {_settings(row['label'])}"
            yield Line(where, spread([100 * value for value in row["averages"]], 1))


def _of_one_seed(method: str) -> Iterator[Line]:
    measured = {row["label"] for row in read(SEEDS)["values"]["rows"]}
    for record in map(read, SINGLE):
        for row in record["values"]["rows"]:
            if _is_of(row["label"], method) and row["label"] not in measured:
                measured.add(row["label"])
                where = f"`mini/clip` small, seed 0, {_settings(row['label'])}{_of_few(row['tasks'])}"
                yield Line(where, f"{100 * row['average']:.1f}{_beside_references(row['tasks'])}")


def _of_few(tasks: Mapping[str, float]) -> str:
    """Return which experts were fused, where it was not all of them."""
    few = len(tasks) < len(_references()["individual"])
    return f", {'experts' if len(tasks) > 1 else 'expert'} of {' and '.join(tasks)}" if few else ""


def _beside_references(tasks: Mapping[str, float]) -> str:
    """Return what base and experts have on the same tasks, where these are not all."""
    if not _of_few(tasks):
        return ""
    base, single = (100 * fmean(_references()[row][task] for task in tasks) for row in ("pretrained", "individual"))
    return f" (base {base:.1f}, {'experts' if len(tasks) > 1 else 'expert'} {single:.1f})"


@cache
def _references() -> Mapping[str, Mapping[str, float]]:
    return {row["method"]: row["tasks"] for row in read(METHODS)["values"]["rows"] if row["method"] in REFERENCES}


def _beside_the_printed(method: str) -> Iterator[Line]:
    experiment = next(each for each in every_experiment() if each.name == STAND_IN)
    methods: dict[str, Any] = {row.label: row.method.get("name") for row in experiment.rows}
    record = read(f"answer-{STAND_IN}-mini")
    for row in record["values"]["rows"]:
        if methods.get(row["label"]) == method:
            where = f"[{STAND_IN}](../experiments/{STAND_IN}.md) on its offline stand-in, {row['label']}"
            yield Line(where, f"{row['average']:.1f}", f"{row['printed']:.1f}")


def note() -> str:
    """Return what the figures mean and where they come from."""
    return "\n".join(f"- {origin(read(name))}" for name in (SEEDS, *SINGLE, f"answer-{STAND_IN}-mini"))
