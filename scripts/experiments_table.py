"""The table of experiments, from their files."""

from fusionbench.experiments.model import load_experiment, names

KINDS = {"table": "table", "transfer": "transfer matrix", "curve": "curve", "cosine": "similarity matrix"}


def experiments_table() -> str:
    """Return a row an experiment: what it answers, with how many runs, on which suite and which stand-in."""
    lines = ["| experiment | kind | answers | suite | stand-in |", "|---" * 5 + "|"]
    for name in names():
        found = load_experiment(name)
        answers = [*(_short(file) for file in found.published), *found.figures] or ["–"]
        cells = (
            f"`{name}`: {found.title}", KINDS[found.kind], ", ".join(answers), f"`{found.suite['name']}`",
            f"`{found.stand_in['name']}` ({found.stand_in['size']})",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _short(file: str) -> str:
    """Return "concrete table 1" of `concrete_table01_clip-….csv`."""
    paper, table, *_ = file.split("_")
    return f"{paper} table {int(table.removeprefix('table'))}"
