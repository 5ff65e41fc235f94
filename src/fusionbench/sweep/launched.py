"""Runs as jobs of a launcher: the kind "run" of `fusionbench.launch`, whose docstring is the contract of all kinds."""

from pathlib import Path

from fusionbench.config import Recipe
from fusionbench.errors import FusionBenchError
from fusionbench.launch.jobs import Answer, Job, new_job, value_of
from fusionbench.records import Remote, Report, local_of
from fusionbench.run import RunResult
from fusionbench.sweep.local import Outcome, run_below


def job_of(recipe: Recipe, parent: Path | Remote, *, name: str | None = None, force: bool = False) -> Job:
    """Return what another process needs to know to run a recipe below `parent` on the launcher's `cpus` threads."""
    document = recipe.dump()
    cpus = recipe.runtime.launcher.cpus if recipe.runtime.launcher else recipe.runtime.threads
    document["runtime"] |= {"launcher": None, "threads": cpus}
    address = parent.address if isinstance(parent, Remote) else None
    return new_job("run", local_of(parent), {"recipe": document, "name": name, "address": address, "force": force})


def run_job(job: Job) -> dict[str, object]:
    """Run a job's recipe; return the name of the run's folder, and whether the run was there already.

    Raises:
        FusionBenchError: that the run raises.
    """
    # A remote folder has another place on each machine.
    parent = Remote.at(job["address"]) if job["address"] else Path(job["folder"])
    result = run_below(Recipe.read(job["recipe"]), parent, job["name"], force=job["force"])
    return {"folder": result.folder.name, "reused": result.reused}


def outcome_of(recipe: Recipe, parent: Path | Remote, answer: Answer) -> Outcome:
    """Return what an answer says: the report is read from the run's folder."""
    try:
        value = value_of(answer)
        place = parent / value["folder"]
        if isinstance(place, Remote):
            place.fetch()
        folder = local_of(place)
        return Outcome(recipe, RunResult(folder, Report.load(folder), value["reused"]))
    except FusionBenchError as error:
        return Outcome(recipe, None, error)
