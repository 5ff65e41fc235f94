"""Rows whose parameter the papers chose on validation data: their grid is run there, and the best value is kept."""

from pathlib import Path
from typing import Any

from fusionbench.errors import ConfigError, FusionBenchError
from fusionbench.experiments.model import Point
from fusionbench.merge import Progress
from fusionbench.sweep import run_all

FOLDER = "selection"
"""Folder of the runs on the validation split, below that of the experiment."""


def selected(point: Point, out: Path, progress: Progress) -> tuple[dict[str, Any], str]:
    """Return the values that are best on the validation split of the grid that a row names, and a note on it.

    Args:
        point: of an experiment; most rows select nothing.
        out: folder of the experiment.
        progress: told what is being done.

    Raises:
        FusionBenchError: where a run fails, with its reason.
        ConfigError: where the tasks have no common average.
    """
    if not point.row.select:
        return {}, ""
    ((key, grid),) = point.row.select.items()
    recipes = [point.load(**{key: value, "tasks.split": "validation", "output.model": False}) for value in grid]
    best: tuple[float, Any] | None = None
    for value, outcome in zip(grid, run_all(recipes, out / FOLDER, progress=progress), strict=True):
        if outcome.result is None:
            raise outcome.error or FusionBenchError("A run of the selection gave no result.")
        average = outcome.result.report.primary_average
        if average is not None and (best is None or average.value > best[0]):
            best = (average.value, value)
    if best is None:
        raise ConfigError(f"{point.row.label}: the tasks have no common average to select by.")
    return {key: best[1]}, f"{key}={best[1]} selected on validation data"
