"""The table of experiments, from their files."""

from functools import cache

from fusionbench.experiments.model import Experiment, load_experiment, names

KINDS = {"table": "table", "transfer": "transfer matrix", "curve": "curve", "cosine": "similarity matrix"}


@cache
def every_experiment() -> tuple[Experiment, ...]:
    """Return all experiments, each read once, by name."""
    return tuple(map(load_experiment, names()))


def experiments_table() -> str:
    """Return a row an experiment: what it answers, on which suite and which stand-in."""
    lines = ["| experiment | kind | answers | suite | stand-in |", "|---" * 5 + "|"]
    for found in every_experiment():
        answers = [_short(file) for file in (*found.published, *found.figures)] or ["–"]
        cells = (
            f"`{found.name}`: {found.title}", KINDS[found.kind], ", ".join(answers), f"`{found.suite['name']}`",
            f"`{found.stand_in['name']}` ({found.stand_in['size']})",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _short(file: str) -> str:
    """Return "concrete table 1" of `concrete_table01_clip-….csv`, "concrete figure 5" of `concrete_figure05`."""
    paper, printed, *_ = file.split("_")
    kind = "table" if printed.startswith("table") else "figure"
    return f"{paper} {kind} {int(printed.removeprefix(kind))}"
