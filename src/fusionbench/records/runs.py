"""Finished runs on disk, found by their `report.json`."""

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fusionbench.errors import FusionBenchError, MissingData
from fusionbench.records.results import REPORT, Report
from fusionbench.records.run_info import RUN, RunInfo

RECIPE, TASKS = "recipe.yaml", "tasks"
MARK = "# fusionbench identity: "
"""Before a run's identity, in the first line of its recipe."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run: folder, numbers, what it took (None where `run.json` is missing), the text of its recipe."""

    folder: Path
    report: Report
    info: RunInfo | None = None
    recipe: str = ""

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Return the run in `folder`.

        Raises:
            MissingData: where it has no report.
            ConfigError: where a file of it is not of this schema.
        """
        info, recipe = folder / RUN, folder / RECIPE
        return cls(
            folder=folder,
            report=Report.load(folder / REPORT),
            info=RunInfo.load(info) if info.is_file() else None,
            recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        )


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """Return all finished runs in and below `folders`, in the order of their paths, each once.

    An unfinished run (a recipe without a report) and a `report.json` of another make are skipped, each with a warning
    in the log that says why.

    Raises:
        MissingData: where a folder does not exist.
    """
    runs: dict[Path, Run] = {}
    for top in folders:
        if not top.is_dir():
            raise MissingData(f"There is no folder {top}. Give the folder of a run, or one that holds runs.")
        for folder in _run_folders(top):
            if folder.resolve() not in runs and (run := _loaded(folder)):
                runs[folder.resolve()] = run
    return list(runs.values())


def _run_folders(top: Path) -> Iterator[Path]:
    """Yield folders that hold a run; what lies below a run is its own and is not searched."""
    for folder, below, files in os.walk(top):
        below.sort()
        if REPORT in files or RECIPE in files:
            below.clear()
            yield Path(folder)


def _loaded(folder: Path) -> Run | None:
    if not (folder / REPORT).is_file():
        logger.warning("%s is skipped: the run did not finish (%s without %s).", folder, RECIPE, REPORT)
        return None
    try:
        return Run.load(folder)
    except FusionBenchError as error:
        logger.warning("%s is skipped: %s", folder, error)
        return None
