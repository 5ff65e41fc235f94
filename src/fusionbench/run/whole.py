"""Run a method of the kind `whole`: lend it models, tasks and a context, and keep what it leaves."""

import inspect
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fusionbench.config import MethodConfig, RuntimeConfig
from fusionbench.errors import ConfigError, OutputError
from fusionbench.merge import Pool, Progress, silent
from fusionbench.methods._context import Context, Scores
from fusionbench.methods._statistics import collect_all, report_missing, report_stored
from fusionbench.mixing import Fused, FusedWeights, Measured
from fusionbench.mixing.build import family_of
from fusionbench.records import DataUse, write_whole
from fusionbench.registry import methods
from fusionbench.run.setting import Setting
from fusionbench.signatures import arguments
from fusionbench.suites.model import Suite
from fusionbench.suites.tasks import open_tasks
from fusionbench.tasks import Task, evaluate
from fusionbench.training import ALONE, Loop, Processes, tracking_of
from fusionbench.weights.collected import STATISTICS
from fusionbench.weights.headers import TensorSpec
from fusionbench.weights.partial import written_to
from fusionbench.weights.plan import settled
from fusionbench.weights.safetensors import SafetensorsSource, open_safetensors
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import SAFETENSORS, LazyWeights, Weights, as_bytes
from fusionbench.weights.writer import CheckpointWriter

ARTEFACTS, TRAINING, LEFT, SINGLE = "artefacts", "training", "left.json", "model.safetensors"
TRACKERS = "trackers"
DIVISIBLE = (
    "adamerging", "concrete_adamerging", "concrete_task_arithmetic", "efficient_wemoe", "pwe_moe", "rank_one_moe",
    "wemoe",
)  # fmt: skip
"""Methods of this kind whose steps several processes divide."""


@dataclass(slots=True)
class Left:
    """What a method told the report: data that it adapted or selected on, and notes."""

    used: dict[str, DataUse] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kind: str = ""
    """What the result is; `weights` can be read back from the folder they were written to."""

    def note_use(self, how: str, *, split: str, tasks: tuple[str, ...], count: int | None = None) -> None:
        """Remember that data were looked at; `how` is "adapted" or "selected"."""
        self.used[how] = DataUse(split=split, tasks=tasks, count=count)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a method is run with that looks at data.

    Attributes:
        pool: the opened models.
        method: with its parameters as the recipe has them.
        seed: of every random choice.
        runtime: device, memory and threads.
        tasks: opens the tasks that the experts were trained on; they are opened where something looks at them.
        folder: for artefacts and checkpoints, from which an equal call goes on.
        dtype: kind of number of the result, as `output.dtype` names it.
        progress: told what is being done.
        processes: that run it together.
    """

    pool: Pool
    method: MethodConfig
    seed: int
    runtime: RuntimeConfig
    tasks: Callable[[], Mapping[str, Task]]
    folder: Path
    dtype: str = "base"
    progress: Progress = silent
    processes: Processes = ALONE


def bench_of(setting: Setting, folder: Path, progress: Progress, processes: Processes = ALONE) -> Bench:
    """Return what a method is run with in a run's folder."""
    recipe = setting.recipe

    def tasks() -> Mapping[str, Task]:
        return {} if setting.suite is None else own_tasks(setting.suite.suite, setting.pool)

    return Bench(
        setting.pool,
        recipe.method,
        recipe.seed,
        recipe.runtime,
        tasks,
        folder,
        recipe.output.dtype,
        progress,
        processes,
    )


def own_tasks(suite: Suite, pool: Pool) -> dict[str, Task]:
    """Return the tasks of a suite that a pool's experts were trained on."""
    own = list(dict.fromkeys(task for task in pool.tasks.values() if task is not None))
    return open_tasks(suite, own, base=pool.reference)


def fuse_whole(bench: Bench) -> tuple[Fused, Left]:
    """Return the fused model and what its method left; artefacts and checkpoints are in the bench's folder.

    Raises:
        FusionBenchError: where the method cannot run on these models and tasks.
    """
    entry, left = methods[bench.method.name], Left()
    check_divisible(bench)
    values = settled(entry.parameters, bench.method.params, tuple(bench.pool.experts))
    tasks = bench.tasks()
    context = _context(bench, tasks, left)
    function: Callable[..., Fused] = entry.load()
    fused = function(bench.pool, tasks, context, **arguments(function, values))
    return _finished(fused, bench, context.device, left), left


def check_divisible(bench: Bench) -> None:
    """Refuse several processes for a method that does not divide its steps among them.

    Raises:
        ConfigError: naming those that do.
    """
    if bench.processes.count > 1 and bench.method.name not in DIVISIBLE:
        raise ConfigError(
            f"{bench.method.name} runs in one process, and {bench.processes.count} were started. Start it without a "
            f"launcher of processes; those that divide their steps: {', '.join(DIVISIBLE)}."
        )


def _finished(fused: Fused, bench: Bench, device: torch.device, left: Left) -> Fused:
    """Return a method's result on the device, in the kind of number that is asked for."""
    if isinstance(fused, FusedWeights):
        fused = fused.cast(bench.dtype).on(device)
    elif bench.dtype != "base":
        left.notes.append(f"output.dtype={bench.dtype}: the result is no single set of weights, and keeps its own")
    left.kind = fused.kind if isinstance(fused, Measured) else ""
    return fused


def with_collected(bench: Bench) -> tuple[Bench, Left]:
    """Return the bench with the statistics that its method weighs by: stored, or collected into the folder.

    Raises:
        FusionBenchError: where they cannot be collected on these models and tasks.
    """
    method, pool, left = bench.method, bench.pool, Left()
    entry = methods[method.name]
    collect = getattr(entry.load(), "collect", None)
    if collect is None:
        return bench, left
    if pool.statistics:
        context = _context(bench, {}, left)
        report_stored(pool, context)
    else:
        tasks = bench.tasks()
        context = _context(bench, tasks, left)
        taken = [p for p in entry.parameters if p.name in inspect.signature(collect).parameters]
        values = settled(taken, {p.name: method.params[p.name] for p in taken}, tuple(pool.experts))
        collect_all(pool, tasks, context, collect, method=method.name, values=values)
        kept = bench.folder / ARTEFACTS / STATISTICS
        pool = replace(pool, statistics={name: open_source(kept / name) for name in pool.experts})
    report_missing(pool, context)
    return replace(bench, pool=pool), left


def _context(bench: Bench, tasks: Mapping[str, Task], left: Left) -> Context:
    tracking = tracking_of(bench.runtime.trackers, bench.folder / TRACKERS)
    loop = Loop(
        bench.folder / TRAINING,
        device=bench.runtime.device,
        progress=bench.progress,
        tracking=tracking,
        processes=bench.processes,
    )
    artefacts = bench.folder / ARTEFACTS

    def score(fused: Fused) -> Scores:
        placed = fused.on(loop.place) if isinstance(fused, FusedWeights) else fused
        found = {
            name: evaluate(placed, task, "validation", processes=bench.processes).scores for name, task in tasks.items()
        }
        return {name: next(iter(scores.values())).value for name, scores in found.items()}

    def keep(name: str, tensors: Weights, text: Mapping[str, str]) -> None:
        if bench.processes.is_main:
            save_artefact(artefacts, name, tensors, text)

    return Context(
        seed=bench.seed,
        device=loop.place,
        memory=bench.runtime.memory,
        family=family_of(bench.pool),
        loop=loop,
        save=keep,
        load=lambda name: load_artefact(artefacts, name),
        evaluate=score,
        used=left.note_use,
        note=left.notes.append,
    )


def save_artefact(folder: Path, name: str, tensors: Weights, text: Mapping[str, str]) -> None:
    """Write tensors as `<folder>/<name>/model.safetensors`, whole or not at all, in the place of an earlier one."""
    specs = [TensorSpec(key, SAFETENSORS[t.dtype], tuple(t.shape)) for key, t in tensors.items()]
    place, beside = folder / name, folder / f"{name}.next"
    shutil.rmtree(beside, ignore_errors=True)
    # One file, however large: only a single file can take another's place at once.
    with CheckpointWriter(beside, specs, metadata=dict(text), shard_bytes=sys.maxsize) as writer:
        for key, tensor in tensors.items():
            writer.write(key, as_bytes(tensor))
    with written_to(place):
        place.mkdir(exist_ok=True)
        os.replace(beside / SINGLE, place / SINGLE)
        beside.rmdir()


def load_artefact(folder: Path, name: str) -> Weights | None:
    """Return what `save_artefact` wrote, or None."""
    if not (folder / name / SINGLE).exists():
        return None
    source: SafetensorsSource | None = open_safetensors(name, folder / name)
    return None if source is None else LazyWeights(source)


def describe_left(left: Left) -> dict[str, Any]:
    """Return what the report says of the data: its keys adapted_on and selected_on."""
    return {"adapted_on": left.used.get("adapted"), "selected_on": left.used.get("selected")}


def write_left(folder: Path, left: Left) -> None:
    """Keep what a method told the report, for a run that is taken up again after its model was written."""
    used = {key: use.model_dump() for key, use in left.used.items()}
    document = {"used": used, "notes": left.notes, "kind": left.kind}
    write_whole(folder / ARTEFACTS / LEFT, json.dumps(document, indent=1) + "\n")


def read_left(folder: Path) -> Left:
    """Return what `write_left` kept; nothing where there is none.

    Raises:
        OutputError: where it is damaged.
    """
    file = folder / ARTEFACTS / LEFT
    if not file.is_file():
        return Left()
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        used = {key: DataUse.model_validate(use) for key, use in document["used"].items()}
        return Left(used, [str(note) for note in document["notes"]], str(document["kind"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{file} is damaged: {error}. Add --force to make the run anew.") from None
