"""A merge whose files other processes make, of this machine, of a Ray cluster or of Slurm: a file of the output a job.

The process that starts it reads headers only. Where a method looks at the whole model first and counts, each job counts
in the tensors of one file, and the starter adds up; on one machine, or where it does more than count, one job looks
alone. What was found is left as a file of plain data; then each job makes one file of the output and gives it its name
when it is whole. The index is written last, by the starter. No torch here beyond what the method needs.
"""

import json
import shutil
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from fusionbench.config import Recipe
from fusionbench.config.launcher import LauncherConfig
from fusionbench.errors import CheckpointError, ConfigError, OutputError
from fusionbench.kernels import State
from fusionbench.launch import Job, launch, new_job, value_of
from fusionbench.launch.slurm import JOB_FILES
from fusionbench.merge import Pool, Progress, open_pool, plan_of_recipe, run_recipe_plan
from fusionbench.merge_header import header
from fusionbench.registry import load_attribute, methods
from fusionbench.weights.aliases import written_once
from fusionbench.weights.arrays import kernel_for
from fusionbench.weights.engine import Prepared, prepare_plan
from fusionbench.weights.layout import Layout
from fusionbench.weights.looks import added, count_part, look_in_parts
from fusionbench.weights.partial import PREPARED, written_to
from fusionbench.weights.plan import Plan
from fusionbench.weights.prepared import load_prepared, save_prepared
from fusionbench.weights.read_back import ReadBack
from fusionbench.weights.shard_writer import ShardWriter, check_folder
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
    passes = 0
    if missing:
        _look_first(recipe, about, plan, writer, launcher)
    jobs = [{**_job(recipe, about, writer, number, launcher.cpus), "verify": verify} for number in missing]
    with closing(launch(jobs, launcher, recipe.runtime.threads)) as answers:
        for job, answer in answers:
            passes = max(passes, int(value_of(answer)))
            writer.take(missing[job])
            done += sizes[missing[job]]
            progress(what, done, total)
    shutil.rmtree(writer.partial / JOB_FILES, ignore_errors=True)
    return passes + 1


def _look_first(
    recipe: Recipe, about: Mapping[str, Any], plan: Plan, writer: CheckpointWriter, launcher: LauncherConfig
) -> None:
    """See that what is found of the whole model is in its file, where the method needs to know it."""
    values, found = dict(recipe.method.params), writer.partial / PREPARED
    kernel = kernel_for(plan, methods[recipe.method.name], values, recipe.runtime.device)
    if found.is_file() or (kernel is not None and (kernel.prepare is None or kernel.apart(values))):
        return
    if kernel is None or launcher.name == "processes":
        # Alone on this machine, a look may have all of it, and reads less: a sample tells it where to count. Whether
        # there is one without a kernel, only torch's function knows.
        threads = recipe.runtime.threads if launcher.name == "processes" else launcher.cpus
        _ask([_job(recipe, about, writer, None, threads)], recipe, launcher)
        return
    once, *_ = written_once(plan, _Nowhere())
    counts = partial(_counts, recipe, about, writer, launcher)
    _keep(found, look_in_parts(once, kernel, values, counts))


def _counts(
    recipe: Recipe, about: Mapping[str, Any], writer: CheckpointWriter, launcher: LauncherConfig, number: int
) -> State:
    """Return what a pass of the first look finds in the whole model: the sums over the tensors of each file."""
    whole = pass_file(writer.partial, number)
    if not whole.is_file():
        parts = {part: pass_file(writer.partial, number, part) for part in range(len(writer.layout.shards))}
        missing = [part for part, path in parts.items() if not path.is_file()]
        _ask(
            [{**_job(recipe, about, writer, part, launcher.cpus), "look": number} for part in missing], recipe, launcher
        )
        if unseen := [path.name for path in parts.values() if not path.is_file()]:
            raise OutputError(
                f"{unseen[0]} was written, but is not in {writer.partial}: the machines do not share that folder. "
                "Choose an --out that all of them see."
            )
        _keep(whole, Prepared(added(load_prepared(path).found for path in parts.values()), 0))
        for path in parts.values():
            path.unlink()
    state: State = load_prepared(whole).found
    return state


def pass_file(folder: Path, number: int, part: int | None = None) -> Path:
    """Return the file of what a pass of the first look finds, in the whole model or in the tensors of one file."""
    return folder / f"{PREPARED}-{number}{'' if part is None else f'-{part}'}"


def _keep(path: Path, prepared: Prepared) -> None:
    with written_to(path.parent):
        save_prepared(path, prepared)


def _ask(jobs: Sequence[Job], recipe: Recipe, launcher: LauncherConfig) -> None:
    """Have jobs done whose answers say nothing but that they are."""
    with closing(launch(jobs, launcher, recipe.runtime.threads)) as answers:
        for _, answer in answers:
            value_of(answer)


def _job(recipe: Recipe, about: Mapping[str, Any], writer: CheckpointWriter, part: int | None, threads: int) -> Job:
    document = recipe.dump()
    document["runtime"] |= {"launcher": None, "threads": threads}
    return new_job(KIND, writer.partial, {"recipe": document, "about": about, "part": part})


def merge_part(job: Job) -> int:
    """Do a job of `run_in_parts`: look at the whole model, count in the tensors of a file, or make that file.

    Returns:
        How many passes over the inputs the first look took; 0 of a count.

    Raises:
        CheckpointError: where a model is another one on this machine.
        OutputError: where the folder is not the one of this merge.
        FusionBenchError: see `fusionbench.merge.merge`.
    """
    work = _opened(json.dumps([job["recipe"], job["about"]]))
    folder = Path(job["folder"])
    key = work.layout.key(job["about"]["identity"])
    found = folder / PREPARED
    if job.get("look") is not None:
        before = [load_prepared(pass_file(folder, number)).found for number in range(job["look"])]
        state = work.count(job["part"], before)
        check_folder(folder, key)
        _keep(pass_file(folder, job["look"], job["part"]), Prepared(state, 0))
        return 0
    prepared = work.prepared(found) if found.is_file() else work.prepare(job["part"])
    if job["part"] is None:
        if not found.is_file():
            _keep(found, prepared)
        return prepared.passes
    others = {step.output.name for step in work.plan} - work.names(job["part"])
    with ShardWriter(folder, work.layout, job["part"], key=key) as writer:
        sink = ReadBack(writer) if job["verify"] else writer
        run_recipe_plan(
            work.plan, work.recipe.method, work.recipe.runtime, sink, finished=others, prepared=prepared
        )  # fmt: skip
        if isinstance(sink, ReadBack):
            sink.compare()
    return prepared.passes


@dataclass(frozen=True, slots=True)
class _Work:
    """A merge as a process sees it that makes parts of it."""

    recipe: Recipe
    plan: Plan
    layout: Layout

    def names(self, part: int) -> set[str]:
        """Return the outputs that a file holds."""
        return {spec.name for spec in self.layout.shards[part]}

    def prepare(self, part: int | None) -> Prepared:
        """Look at the whole model, or, where tensors are looked at alone, at what a file holds."""
        runtime, method = self.recipe.runtime, self.recipe.method
        plan, *_ = written_once(self.plan, _Nowhere())
        kernel = kernel_for(plan, methods[method.name], dict(method.params), runtime.device)
        # A file of what was found that is not seen here, or is gone, must not make this part another merge.
        if part is not None and kernel is not None and kernel.apart(dict(method.params)):
            own = {self.plan.aliases.get(name, name) for name in self.names(part)}
            plan = replace(plan, steps=tuple(step for step in plan if step.output.name in own))
        return prepare_plan(
            plan, methods[method.name], values=method.params, threads=runtime.threads, memory=runtime.memory,
            device=runtime.device,
        )  # fmt: skip

    def count(self, part: int, before: Sequence[State]) -> State:
        """Return what one more pass finds in the tensors that a file holds and no other has under a first name."""
        runtime, method = self.recipe.runtime, self.recipe.method
        plan, *_ = written_once(self.plan, _Nowhere())
        return count_part(
            plan, self.names(part), methods[method.name], values=method.params, threads=runtime.threads,
            memory=runtime.memory, device=runtime.device, before=before,
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
