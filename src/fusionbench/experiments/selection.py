"""Rows whose parameter the papers chose on validation data: their grid is run there, and the best value is kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, FusionBenchError
from fusionbench.experiments.model import Point
from fusionbench.merge import Progress
from fusionbench.records import Remote
from fusionbench.sweep import Outcome, run_all

FOLDER = "selection"
"""Folder of the runs on the validation split, below that of the experiment."""


class Selected(NamedTuple):
    """What was chosen for a point: values by key of the recipe and a note on them, both empty for most rows."""

    changes: Mapping[str, Any]
    note: str


def select(
    points: Sequence[Point], common: Mapping[str, Any], out: Path | Remote, progress: Progress
) -> list[Selected | FusionBenchError]:
    """Return for each point the values that are best on the validation split of the grid that its row names.

    The grids of all points are one list of runs, so that a cluster is kept busy. A point whose run fails, or whose
    tasks have no common average, has the error in its place.

    Args:
        points: of an experiment; most rows select nothing.
        common: values at dotted keys of all recipes, such as `runtime`.
        out: folder of the experiment.
        progress: told what is being done.

    Raises:
        Interrupted: on Ctrl-C.
    """
    grids = [_grid(point, common) for point in points]
    outcomes = run_all(
        [recipe for grid in grids if not isinstance(grid, FusionBenchError) for recipe in grid],
        out / FOLDER,
        progress=progress,
    )
    return [
        grid if isinstance(grid, FusionBenchError) else _best(point, [next(outcomes) for _ in grid])
        for point, grid in zip(points, grids, strict=True)
    ]


def _grid(point: Point, common: Mapping[str, Any]) -> list[Recipe] | FusionBenchError:
    """Return the recipes of a point's grid, none where nothing is selected."""
    on_validation = {**common, "tasks.split": "validation"}
    # A merged adapter is put on its base from its file, so that it has to be written.
    on_validation |= {} if point.recipe.get("space") == "adapter" else {"output.model": False}
    try:
        return [point.load(**on_validation, **{key: value}) for key, grid in point.row.select.items() for value in grid]
    except FusionBenchError as error:
        return error


def _best(point: Point, outcomes: Sequence[Outcome]) -> Selected | FusionBenchError:
    if not point.row.select:
        return Selected({}, "")
    ((key, grid),) = point.row.select.items()
    best: tuple[float, Any] | None = None
    for value, outcome in zip(grid, outcomes, strict=True):
        if outcome.result is None:
            return outcome.error or FusionBenchError("A run of the selection gave no result.")
        average = outcome.result.report.primary_average
        if average is not None and (best is None or average.value > best[0]):
            best = (average.value, value)
    if best is None:
        return ConfigError(f"{point.row.label}: the tasks have no common average to select by.")
    return Selected({key: best[1]}, f"{key}={best[1]} selected on validation data")
