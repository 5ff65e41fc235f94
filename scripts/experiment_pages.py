"""A page of the site for each registered experiment, and the list of them: from the experiments' files alone."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from experiments_table import every_experiment

from fusionbench.experiments.answer import ROUNDING
from fusionbench.experiments.model import FIRST, TOLERANCE, Experiment, Row
from fusionbench.registry import methods
from reference import escaped, page_of, paper_link, suite_page

TEXTS = {
    "fusionbench-v1": "FusionBench, earlier text",
    "fusionbench-v2": "FusionBench, later text",
    "concrete": "Concrete subspace learning",
    "re-ties": "[Re] TIES-Merging",
}
KINDS = {
    "table": "a table: methods as rows, tasks as columns",
    "transfer": "a transfer matrix: every model on every task",
    "curve": "a curve: methods along a varied key",
    "cosine": "a matrix of cosine similarities of the task vectors",
}
SETTINGS = {
    "tasks.severity": "corrupted images at severity {} of 1 to 5",
    "output.dtype": "weights are stored as {}",
}
"""What keys of a recipe beside the method's ask for."""
PIPELINES = {
    "average": "checkpoints are merged and scored",
    "adapted": "the method also learned from data, in an order that the papers do not give",
    "retrained": "the checkpoints are not published and must be trained anew",
    "quoted": "the paper quotes the number from another one",
}


def source_of(name: str) -> str:
    """Return a published file's or figure's name in words: "FusionBench, later text, table 3"."""
    text, kind, number = re.match(r"(.+?)_(table|figure)(\d+)", name).groups()  # type: ignore[union-attr]
    return f"{TEXTS[text]}, {kind} {int(number)}"


def suite_link(suite: Mapping[str, Any]) -> str:
    """Return a suite with the link to its page and what is chosen of it."""
    name = str(suite["name"])
    rest = ", ".join(f"{key} {_shown(value)}" for key, value in suite.items() if key != "name")
    return f"[`{name}`](../{suite_page(name)})" + (f" ({rest})" if rest else "")


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _code(settings: Mapping[str, Any]) -> str:
    """Return settings as a recipe has them, in code; lists and mappings as JSON."""
    parts = [f"{key}={_plain(value)}" for key, value in settings.items()]
    return escaped(f"`{', '.join(parts)}`") if parts else "–"


def _plain(value: Any) -> str:
    """Return a value as the command line has it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | bool | None) else str(value)


def _label(row: Row) -> str:
    """Return a row's name with the link to its method's page."""
    name = str(row.method["name"])
    shown = escaped(row.label)
    return f"[{shown}](../methods/{page_of(name)}.md)" if name in methods else shown


def _remarks(row: Row) -> list[str]:
    """Return what else holds for a row: its choice on validation data, its part of the suite, why it cannot be run."""
    said = [f"chosen on the validation split: {_code(row.select)}"] if row.select else []
    said += [f"of the suite: {_code(row.part)}"] if row.part else []
    said += [_in_words(key, value) for key, value in _flat(row.settings)]
    said += [f"on the stand-in: {_code(row.stand_in_params)}"] if row.stand_in_params else []
    said += [f"cannot be run on the papers' suite: {row.unavailable}"] if row.unavailable else []
    said += [f"cannot be run on the stand-in: {row.no_stand_in}"] if row.no_stand_in else []
    said += [] if row.printed else ["no paper prints this row"]
    return said


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by their whole keys, as the command line has them."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _in_words(key: str, value: Any) -> str:
    """Return what a key of the recipe asks for, and how."""
    return (
        f"{SETTINGS[key].format(value)} ({_code({key: value})})" if key in SETTINGS else f"with {_code({key: value})}"
    )


def rows_table(experiment: Experiment) -> str:
    lines = ["| row | method and parameters | tolerance, points |", "|---|---|---|"]
    for row in experiment.rows:
        allowed = TOLERANCE[row.pipeline]
        said = "–" if row.printed is None else "order only" if allowed is None else f"{allowed:g}"
        does = "<br>".join([_code(row.method), *(f"{escaped(remark)}" for remark in _remarks(row))])
        lines.append(f"| {_label(row)} | {does} | {said} |")
    return "\n".join(lines)


def verdict_rule(experiment: Experiment) -> str:
    """Return how a printed cell is judged, with the pipelines that occur."""
    kinds = dict.fromkeys(row.pipeline for row in experiment.rows if row.printed)
    said = [
        f"A cell *agrees* where |ours − printed| ≤ {ROUNDING:g} + 2·(standard error) + the row's tolerance, all in\n"
        "points (× 100); else it *differs*. This is asked on the papers' suite only; on the stand-in only orders\n"
        "compare ([how a cell is judged](../experiments.md))."
    ]
    for kind in kinds:
        allowed = TOLERANCE[kind]
        rule = f"tolerance {allowed:g}" if allowed is not None else "no verdict on cells"
        said.append(f"- *{kind}* ({PIPELINES[kind]}): {rule}.")
    return "\n".join([said[0], "", *said[1:]]).rstrip()


def _place(label: str, column: str, at: Mapping[str, str]) -> str:
    where = "".join(f", {key} {value}" for key, value in at.items())
    return f"*{label}*{'' if column == 'average' else f', {column}'}{where}"


def claim_lines(experiment: Experiment) -> list[str]:
    """Return each claim once, with the pairs of numbers that it compares."""
    pairs: dict[str, list[str]] = {}
    for claim in experiment.claims:
        below = claim.at if claim.lower_at is None else claim.lower_at
        less = "" if claim.less is None else f" − *{claim.less}*"
        there = "" if claim.lower_in is None else f" of [`{claim.lower_in}`]({claim.lower_in}.md)"
        higher = _place(claim.higher, claim.column, claim.at) + less
        lower = _place(claim.lower, claim.lower_column or claim.column, below) + less + there
        pairs.setdefault(claim.text, []).append(f"{higher} > {lower}")
    return [f"- {text} Held to: {'; '.join(found)}." for text, found in pairs.items()]


def varied_lines(experiment: Experiment) -> list[str]:
    """Return what varies, what values are divided by, and what holds of all recipes."""
    said = [f"In all rows: {_code(experiment.settings)}."] if experiment.settings else []
    if experiment.relative_to is not None:
        said.append(f"Values are also divided by those of *{experiment.relative_to}*, task by task.")
    for key, values in experiment.vary.items():
        shown = "the number of merged experts (in the order of the list above)" if key == FIRST else f"`{key}`"
        said.append(f"Varied: {shown}: {', '.join('none' if value is None else str(value) for value in values)}.")
    return said


def profile_lines(experiment: Experiment) -> list[str]:
    rows = {str(row.method["name"]) for row in experiment.rows}
    said = []
    for profile, changes in experiment.shorter.items():
        parts = [f"`{name}` with {_code(found)}" for name, found in changes.items() if name in rows]
        parts += [f"of `{key}` only {_shown(values)}" for key, values in experiment.fewer.get(profile, {}).items()]
        if parts:
            said.append(f"`--profile {profile}` shortens it: {'; '.join(parts)}.")
    return said


def experiment_page(found: Experiment) -> str:
    """Return the page of an experiment."""
    remade = [source_of(each) for each in (*found.published, *found.figures)]
    files = ", ".join(f"`{file}`" for file in found.published)
    paper = paper_link(found.paper) if found.paper != "none" else "none prints it as a table"
    parts = [
        f"# {found.name}",
        f"{found.title}. This is {KINDS[found.kind]}.",
        "\n".join(
            [
                f"- **Paper:** {paper}",
                f"- **Remakes:** {'; '.join(remade) or 'nothing that was printed'}",
                f"- **Published numbers:** {files or 'none'}",
                f"- **Suite:** {suite_link(found.suite)}",
                f"- **Offline stand-in:** {suite_link(found.stand_in)}",
            ]
        ),
        f"```bash\nfusionbench reproduce {found.name}\nfusionbench reproduce {found.name} --suite mini\n```",
        "The first command needs the hub's checkpoints and data; the second builds the stand-in and needs no network.\n"
        "`--dry-run` prints the recipes and runs nothing.",
        *varied_lines(found),
        *profile_lines(found),
    ]
    if found.rows:
        parts += ["## Rows", rows_table(found)]
    if any(row.printed for row in found.rows):
        parts += ["## When a cell agrees", verdict_rule(found)]
    if found.claims:
        parts += ["## Claims", "\n".join(claim_lines(found))]
    if found.notes:
        parts += ["## Before you compare", "\n".join(f"- {note[:1].upper()}{note[1:]}" for note in found.notes)]
    return "\n\n".join(parts) + "\n"


def index_page() -> str:
    """Return the list of the experiments."""
    lines = ["| experiment | what | paper | remakes |", "|---|---|---|---|"]
    for found in every_experiment():
        remade = "; ".join(source_of(each) for each in (*found.published, *found.figures)) or "–"
        paper = paper_link(found.paper) if found.paper != "none" else "–"
        lines.append(f"| [`{found.name}`]({found.name}.md) | {escaped(found.title)} | {paper} | {remade} |")
    intro = (
        "An experiment is a YAML file that remakes one table or figure of a paper: its rows, with every parameter\n"
        "written out, the suite, the printed numbers that it is held against, and what the paper says of them.\n"
        "`fusionbench reproduce NAME` runs it and sets ours beside theirs; `--suite mini` runs the same rows on an\n"
        "offline stand-in. *Earlier* and *later text* are the two texts of the FusionBench paper.\n"
        "[The papers' experiments](../experiments.md) says how cells, orders and claims are judged."
    )
    return "\n\n".join(["# Experiments", intro, "\n".join(lines)]) + "\n"


def pages() -> dict[str, str]:
    """Return the pages by their path below docs/."""
    own = {f"experiments/{each.name}.md": experiment_page(each) for each in every_experiment()}
    return {"experiments/index.md": index_page(), **own}
