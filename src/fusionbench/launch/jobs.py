"""One job that another process does: what it is told, and what it answers. Both are plain data; see the package."""

import importlib
import os
import socket
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fusionbench import errors
from fusionbench.errors import ConfigError, FusionBenchError, Interrupted, OutputError

Job = Mapping[str, Any]
"""`kind`; `here`: where the command was started; `folder`: one that all machines see; what its function reads."""
Answer = Mapping[str, Any]
"""Under `value` what the function returned; or under `error` and `message` the kind and the words of an error."""
KINDS: dict[str, str] = {
    "merge": "fusionbench.merge_in_parts:merge_part",
    "rows": "fusionbench.run.divided:rows_job",
    "run": "fusionbench.sweep.launched:run_job",
}
"""What does the jobs of a kind, as "module:function"; imported when such a job is done."""
MOST_OF_A_MESSAGE = 2000


def new_job(kind: str, folder: Path, fields: Mapping[str, Any]) -> Job:
    """Return a job.

    Args:
        kind: one of `KINDS`.
        folder: where its results go; all machines see it. Job files and logs of Slurm are in its `.slurm`.
        fields: what the kind's function reads; plain data that JSON can hold.
    """
    return {**fields, "kind": kind, "here": os.getcwd(), "folder": str(folder.resolve())}


def perform(job: Job) -> Answer:
    """Do a job in this process; whatever goes wrong in it is an answer, so that no other job is lost.

    Raises:
        Interrupted: where this process is told to stop.
    """
    try:
        _go_to(job["here"])
        return {"value": _function_of(job["kind"])(job)}
    except Interrupted:
        raise
    except FusionBenchError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        said = "".join(traceback.format_exception(error))[-MOST_OF_A_MESSAGE:]
        return {
            "error": FusionBenchError.__name__,
            "message": f"A bug ended this {job['kind']}; please report it.\n{said}",
        }


def _function_of(kind: str) -> Callable[[Job], Any]:
    if kind not in KINDS:
        raise ConfigError(
            f"The job {kind!r} is not known on {socket.gethostname()}. Install the same version of FusionBench on all "
            "machines."
        )
    module, _, function = KINDS[kind].partition(":")
    found: Callable[[Job], Any] = getattr(importlib.import_module(module), function)
    return found


def _go_to(folder: str) -> None:
    """Work where the command was started, since a job may name files from there."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise OutputError(
            f"{folder} is not on {socket.gethostname()}: {error.strerror}. Start the command in a folder that all "
            "machines share."
        ) from None


def value_of(answer: Answer) -> Any:
    """Return what a job's function returned.

    Raises:
        FusionBenchError: that the function raised, of the same class, or that says how its process was lost.
    """
    if "error" in answer:
        kind = getattr(errors, answer["error"], FusionBenchError)
        # Past the constructor: some errors make their words from parts that are not told.
        error: FusionBenchError = kind.__new__(kind, answer["message"])
        error.about = None
        raise error
    return answer["value"]


def died(how: str) -> Answer:
    """Return the answer for a job whose process was lost twice."""
    return {
        "error": FusionBenchError.__name__,
        "message": f"The process of this job was lost twice ({how}); often the memory is too small: set fewer "
        "runtime.launcher.workers, or more memory for each. The same command tries it again.",
    }


def words_of(error: Exception, *, last: bool = True) -> str:
    """Return the last line of what an error of another package says, or the first; some say nothing."""
    lines = str(error).strip().splitlines() or ["without a word"]
    return lines[-1 if last else 0]
