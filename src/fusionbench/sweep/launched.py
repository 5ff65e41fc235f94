"""One run of a sweep that another process does: what it is told, and what it answers. Both are plain data."""

import os
import socket
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusionbench import errors
from fusionbench.config import Recipe
from fusionbench.errors import FusionBenchError, Interrupted, OutputError
from fusionbench.records import Report
from fusionbench.run import RunResult, run
from fusionbench.sweep.local import Outcome

Job = Mapping[str, Any]
"""The recipe's document, the folders, and whether a finished run is made anew."""
Answer = Mapping[str, Any]
"""The run's folder by its name and whether it was there already, or the kind and the words of an error."""
MOST_OF_A_MESSAGE = 2000


def job_of(recipe: Recipe, parent: Path, *, force: bool) -> Job:
    """Return what another process needs to know to run a recipe below `parent` on the launcher's `cpus` threads."""
    document = recipe.dump()
    cpus = recipe.runtime.launcher.cpus if recipe.runtime.launcher else recipe.runtime.threads
    document["runtime"] |= {"launcher": None, "threads": cpus}
    return {"recipe": document, "here": os.getcwd(), "parent": str(parent.resolve()), "force": force}


def perform(job: Job) -> Answer:
    """Run a job in this process; whatever goes wrong in it is an answer, so that no other run is lost.

    Raises:
        Interrupted: where this process is told to stop.
    """
    try:
        _go_to(job["here"])
        result = run(Recipe.read(job["recipe"]), parent=Path(job["parent"]), force=job["force"])
    except Interrupted:
        raise
    except FusionBenchError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        said = "".join(traceback.format_exception(error))[-MOST_OF_A_MESSAGE:]
        return {"error": FusionBenchError.__name__, "message": f"A bug ended this run; please report it.\n{said}"}
    return {"folder": result.folder.name, "reused": result.reused}


def _go_to(folder: str) -> None:
    """Work where the sweep was started, since a recipe may name files from there."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise OutputError(
            f"{folder} is not on {socket.gethostname()}: {error.strerror}. Start the sweep in a folder that all "
            "machines share."
        ) from None


def outcome_of(recipe: Recipe, parent: Path, answer: Answer) -> Outcome:
    """Return what an answer says: the report is read from the run's folder."""
    if "error" in answer:
        kind = getattr(errors, answer["error"], FusionBenchError)
        # Past the constructor: some errors make their words from parts that are not told.
        return Outcome(recipe, None, kind.__new__(kind, answer["message"]))
    folder = parent / answer["folder"]
    try:
        return Outcome(recipe, RunResult(folder, Report.load(folder), answer["reused"]))
    except FusionBenchError as error:
        return Outcome(recipe, None, error)


def died(how: str) -> Answer:
    """Return the answer for a run whose process was lost twice."""
    return {
        "error": FusionBenchError.__name__,
        "message": f"The process of this run was lost twice ({how}); often the memory is too small: set fewer "
        "runtime.launcher.workers, or more memory for each. The same command tries it again.",
    }
