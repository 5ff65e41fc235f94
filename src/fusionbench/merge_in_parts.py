"""A merge whose files other processes make, of this machine, of a Ray cluster or of Slurm: a file of the output a job.

The process that starts it reads headers only. Where a method looks at the whole model first, one job does that and
leaves what it found as a file of plain data; then each job makes one file of the output and gives it its name when it
is whole. The index is written last, by the starter. No torch here beyond what the method needs.
"""

import json
import shutil
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.launch import Job, launch, new_job, value_of
from fusionbench.launch.slurm import JOB_FILES
from fusionbench.merge import Pool, Progress, open_pool, plan_of_recipe, run_recipe_plan
from fusionbench.merge_header import header
from fusionbench.registry import load_attribute, methods
from fusionbench.weights.aliases import written_once
from fusionbench.weights.arrays import kernel_for
from fusionbench.weights.engine import Prepared, prepare_plan
from fusionbench.weights.layout import Layout
from fusionbench.weights.partial import PREPARED
from fusionbench.weights.plan import Plan
from fusionbench.weights.prepared import load_prepared, save_prepared
from fusionbench.weights.read_back import ReadBack
from fusionbench.weights.shard_writer import ShardWriter
from fusionbench.weights.writer import CheckpointWriter

KIND = "merge"


def run_in_parts(
    recipe: Recipe, about: Mapping[str, Any], plan: Plan, writer: CheckpointWriter, progress: Progress, *,
    verify: bool = False,
) -> int:  # fmt: skip
    """Let the launcher's processes make the files that are missing; return how often the inputs were read.

    Args:
        recipe: with a launcher; it alone says what the models are.
        about: what each file's header says; it is handed on, so that all files say the same.
        plan: of the whole merge.
        writer: entered, with `in_parts`.
        progress: told how many entries are done, a file at a time.
        verify: let each process read again what it has written, and compare.

    Raises:
        FusionBenchError: the first that a job raises, or that its process was lost twice. What is finished is kept.
    """
    launcher = recipe.runtime.launcher
    if launcher is None:
        raise ConfigError("A merge in parts needs runtime.launcher: processes, ray or slurm.")
    missing, what = writer.missing, f"merging by {recipe.method.name}"
    sizes = [sum(spec.size for spec in shard) for shard in writer.layout.shards]
    total = sum(sizes)
    done = total - sum(sizes[number] for number in missing)
    progress(what, done, total)
    passes = 1
    if missing and _may_look_first(plan, recipe):
        # Alone on this machine, the first look may have all of it.
        threads = recipe.runtime.threads if launcher.name == "processes" else launcher.cpus
        for _, answer in launch([_job(recipe, about, writer, None, threads)], launcher, recipe.runtime.threads):
            passes += int(value_of(answer))
    jobs = [{**_job(recipe, about, writer, number, launcher.cpus), "verify": verify} for number in missing]
    with closing(launch(jobs, launcher, recipe.runtime.threads)) as answers:
        for job, answer in answers:
            value_of(answer)
            writer.take(missing[job])
            done += sizes[missing[job]]
            progress(what, done, total)
    shutil.rmtree(writer.partial / JOB_FILES, ignore_errors=True)
    return passes


def _may_look_first(plan: Plan, recipe: Recipe) -> bool:
    """Tell whether a method looks at the whole model first; where only its torch function knows, that is not asked."""
    kernel = kernel_for(plan, methods[recipe.method.name], dict(recipe.method.params), recipe.runtime.device)
    return kernel is None or kernel.prepare is not None


def _job(recipe: Recipe, about: Mapping[str, Any], writer: CheckpointWriter, part: int | None, threads: int) -> Job:
    document = recipe.dump()
    document["runtime"] |= {"launcher": None, "threads": threads}
    return new_job(KIND, writer.partial, {"recipe": document, "about": about, "part": part})


def merge_part(job: Job) -> int | None:
    """Do a job of `run_in_parts`: make one file of the output, or look first and return how many passes that took.

    Raises:
        CheckpointError: where a model is another one on this machine.
        FusionBenchError: see `fusionbench.merge.merge`.
    """
    work = _opened(json.dumps([job["recipe"], job["about"]]))
    partial = Path(job["folder"])
    found = partial / PREPARED
    prepared = work.prepared(found) if found.is_file() else None
    if job["part"] is None:
        if prepared is None:
            prepared = work.prepare()
            save_prepared(found, prepared)
        return prepared.passes
    names = {spec.name for spec in work.layout.shards[job["part"]]}
    others = {step.output.name for step in work.plan} - names
    with ShardWriter(partial, work.layout, job["part"], key=work.layout.key(job["about"]["identity"])) as writer:
        sink = ReadBack(writer) if job["verify"] else writer
        run_recipe_plan(
            work.plan, work.recipe.method, work.recipe.runtime, sink, finished=others,
            prepared=prepared or Prepared(None, 0),
        )  # fmt: skip
        if isinstance(sink, ReadBack):
            sink.compare()
    return None


@dataclass(frozen=True, slots=True)
class _Work:
    """A merge as a process sees it that makes parts of it."""

    recipe: Recipe
    plan: Plan
    layout: Layout

    def prepare(self) -> Prepared:
        """Look at the whole model, as the merge in one process does."""
        runtime, method = self.recipe.runtime, self.recipe.method
        plan, *_ = written_once(self.plan, _Nowhere())
        return prepare_plan(
            plan, methods[method.name], values=method.params, threads=runtime.threads, memory=runtime.memory,
            device=runtime.device,
        )  # fmt: skip

    def prepared(self, path: Path) -> Prepared:
        """Return what an earlier look found; the method is loaded first, since its own classes may be in it."""
        entry = methods[self.recipe.method.name]
        if kernel_for(self.plan, entry, dict(self.recipe.method.params), self.recipe.runtime.device) is None:
            load_attribute(entry.location)
        return load_prepared(path)


class _Nowhere:
    """A sink for plans that are only looked at."""

    def write(self, name: str, content: memoryview, start: int = 0) -> None:
        """Take nothing."""


# One merge at a time: what is open for it is kept for its next part.
@lru_cache(maxsize=1)
def _opened(text: str) -> _Work:
    document, about = json.loads(text)
    recipe = Recipe.read(document)
    pool = open_pool(recipe)
    _check_same(recipe, pool, about)
    plan = plan_of_recipe(recipe, pool)
    metadata = {"fusionbench": json.dumps(about, ensure_ascii=False)}
    layout = Layout([step.output for step in plan], metadata, recipe.output.shard_bytes)
    return _Work(recipe, plan, layout)


def _check_same(recipe: Recipe, pool: Pool, about: Mapping[str, Any]) -> None:
    """Hold the models and the code of this machine against those of the machine that started the merge.

    Raises:
        CheckpointError: where they differ.
    """
    own = header(recipe, methods[recipe.method.name], pool.fingerprints())
    here = f"on {socket.gethostname()}"
    others = [name for name, digest in own["inputs"].items() if about["inputs"].get(name) != digest]
    if others:
        labels = ", ".join(f"{name} ({pool.sources()[name].label})" for name in others)
        raise CheckpointError(f"{labels}: another model {here} than where the merge was started. Share one folder.")
    if own["identity"] != about["identity"] or own["versions"]["fusionbench"] != about["versions"]["fusionbench"]:
        raise CheckpointError(
            f"fusionbench is version {own['versions']['fusionbench']} {here}, and {about['versions']['fusionbench']} "
            "where the merge was started. Install the same on all machines."
        )
