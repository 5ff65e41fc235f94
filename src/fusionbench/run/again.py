"""Is a run what its report says? It is made once more beside its folder, and every result is compared."""

import shutil
from pathlib import Path

from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, FusionBenchError
from fusionbench.merge import Progress, silent
from fusionbench.records import Report
from fusionbench.run.execution import run
from fusionbench.run.folder import MODEL, RECIPE, REPORT, TASKS, identity_in
from fusionbench.run.setting import resolve
from fusionbench.run.whole import ARTEFACTS
from fusionbench.weights.lock import LOCK, sha256
from fusionbench.weights.partial import room_beside

RESULTS = (MODEL, TASKS, ARTEFACTS)
"""Folders of a run whose files are the same each time; checkpoints and `run.json` say when and where it was made.

So does a model's lock, of the statistics that were collected for it.
"""


def remake_run(folder: Path, progress: Progress = silent) -> tuple[str, ...]:
    """Make a finished run once more, beside it, compare its results byte by byte, and remove the copy.

    Args:
        folder: of the run.
        progress: told what is being done.

    Returns:
        A line for each result that came out otherwise; none where all are equal.

    Raises:
        CheckpointError: where the folder holds no finished run, or its inputs or a version have changed since.
        OutputError: where nothing can be written beside the folder.
        FusionBenchError: see `fusionbench.run.run`.
    """
    recorded = identity_in(folder)
    if recorded is None or not (folder / REPORT).is_file():
        raise CheckpointError(f"{folder} holds no finished run: it needs {RECIPE} and {REPORT} as fusionbench writes.")
    recipe, report = Recipe.load(folder / RECIPE), Report.load(folder)
    _check_inputs(folder, recipe, report, recorded, progress)
    place = room_beside(folder)
    try:
        made = run(recipe, out=place / "run", progress=progress)
        # A search writes into the report of its last run what chose the parameters.
        same = made.report.model_copy(update={"selected_on": made.report.selected_on or report.selected_on}) == report
        names = sorted({*_results(folder), *_results(made.folder)})
        changed = [name for name in names if _digest(folder / name) != _digest(made.folder / name)]
        return tuple(f"{name} came out otherwise" for name in [*([] if same else [REPORT]), *changed])
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _check_inputs(folder: Path, recipe: Recipe, report: Report, recorded: str, progress: Progress) -> None:
    try:
        setting = resolve(recipe, progress)
    except FusionBenchError as error:
        raise CheckpointError(f"{folder} cannot be made again: {error}") from None
    if setting.identity() == recorded:
        return
    found = setting.inputs()
    changed = [name for name in {**report.inputs, **found} if report.inputs.get(name) != found.get(name)]
    what = f"changed since: {', '.join(changed)}" if changed else "its recipe or the version of a part has changed"
    raise CheckpointError(f"{folder} cannot be made again: {what}.")


def _results(folder: Path) -> list[str]:
    files = (path for name in RESULTS for path in (folder / name).rglob("*") if path.is_file())
    return [str(path.relative_to(folder)) for path in files if path.name != LOCK and not path.name.startswith(".")]


def _digest(path: Path) -> str | None:
    return sha256(path) if path.is_file() else None
