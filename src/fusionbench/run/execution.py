"""One run from recipe to report: what is finished is found again, what was begun goes on, nothing is half-written."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import torch

from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError, FusionBenchError, Interrupted, OutputError
from fusionbench.merge import Pool, Progress, merge, plan_of_recipe, run_recipe_plan, silent
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.mixing.assemble import opened
from fusionbench.mixing.build import fused_reference, fused_weights
from fusionbench.mixing.mixed import MixedModel
from fusionbench.records import Remote, Report, RunInfo, local_of
from fusionbench.registry import methods
from fusionbench.run.adapters import fuse_adapters
from fusionbench.run.evaluation import build_tasks, report_of, score_all
from fusionbench.run.folder import MODEL, TASKS, State, begin, default_folder, held, state_of, withdraw
from fusionbench.run.rebuild import fuse_rebuilt
from fusionbench.run.recalibration import recalibrated
from fusionbench.run.setting import Setting, resolve
from fusionbench.run.whole import Left, bench_of, fuse_whole, read_left, with_collected, write_left
from fusionbench.training import Processes, joined
from fusionbench.weights.checks import fit
from fusionbench.weights.devices import device_named
from fusionbench.weights.headers import Source
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import MemorySink


@dataclass(frozen=True, slots=True)
class RunResult:
    """Where a run is, what it found, and whether it was there already."""

    folder: Path
    report: Report
    reused: bool


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self.phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before = perf_counter()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + perf_counter() - before

    def part(self, name: str, seconds: float, *, of: str) -> None:
        """Tell seconds of a phase apart, where there are any."""
        if seconds:
            self.phases = {name: seconds, **self.phases, of: max(0.0, self.phases[of] - seconds)}


def run(
    recipe: Recipe,
    *,
    out: Path | Remote | None = None,
    parent: Path | Remote | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> RunResult:
    """Run a recipe and return its report; a finished run of the same identity is only read.

    Args:
        recipe: what to fuse, how, and what to evaluate it on.
        out: the run's own folder; else the recipe's, else `runs/<suite>/<method>-<8 hex>`.
        parent: folder below which the run gets a folder of its own, for several runs. Both may be remote ones.
        force: make it anew, even where it is finished.
        progress: told what is being done.

    Raises:
        FusionBenchError: for every mistake of the user; nothing half-written is left under its final name.
        Interrupted: on Ctrl-C; the same command goes on.
    """
    processes = joined()
    with processes.united():
        return _run(recipe, processes, out=out, parent=parent, force=force, progress=progress)


def _run(
    recipe: Recipe,
    processes: Processes,
    *,
    out: Path | Remote | None,
    parent: Path | Remote | None,
    force: bool,
    progress: Progress,
) -> RunResult:
    """Run a recipe in the processes that were started for it; the main one holds the folder and writes."""
    clock = _Clock()
    with clock.phase("load"):
        setting = processes.main_first(lambda: resolve(recipe, progress))
        identity = setting.identity()
    clock.part("build", setting.suite.building if setting.suite is not None else 0.0, of="load")
    if not setting.tasks and not recipe.output.model:
        raise ConfigError("There is nothing to do: the recipe has no tasks, and output.model=false.")
    place = _place(recipe, identity, out, parent)
    folder = local_of(place)
    check_apart(folder, setting.pool)
    with held(place, identity, force=force) if processes.is_main else nullcontext():
        state = processes.from_main(lambda: state_of(folder, identity, force=force))
        if state is State.finished:
            return RunResult(folder, processes.from_main(lambda: _report_in(folder)), reused=True)
        if processes.is_main:
            begin(folder, recipe, identity)
        try:
            return RunResult(folder, _make(setting, folder, clock, processes, progress), reused=False)
        except FusionBenchError:
            if processes.is_main:
                withdraw(folder)
            raise
        except KeyboardInterrupt:
            raise Interrupted(f"Stopped. What is finished is kept in {folder}; the same command goes on.") from None


def _report_in(folder: Path) -> Report:
    """Return the report of a finished run.

    Raises:
        ConfigError: where it is damaged, with the fix.
    """
    try:
        return Report.load(folder)
    except FusionBenchError as error:
        raise ConfigError(f"{error} Add --force to make the run anew.") from None


def _model_in(folder: Path) -> Source:
    """Return the model that an earlier attempt wrote.

    Raises:
        CheckpointError: where it is damaged, with the fix.
    """
    try:
        return open_source(folder / MODEL)
    except CheckpointError as error:
        raise CheckpointError(f"{error} It is this run's own model: add --force to make the run anew.") from None


def check_apart(folder: Path, pool: Pool) -> None:
    """Refuse a run whose folder holds one of its own inputs, which making it anew would delete.

    Raises:
        OutputError: naming the input.
    """
    held = (pool.base, pool.mtl, *pool.experts.values(), *pool.statistics.values())
    for source in held:
        if (
            source is not None
            and source.folder is not None
            and source.folder.resolve().is_relative_to(folder.resolve())
        ):
            raise OutputError(
                f"{source.label} lies in {folder}, where this run would be written. Choose another --out."
            )


def _place(recipe: Recipe, identity: str, out: Path | Remote | None, parent: Path | Remote | None) -> Path | Remote:
    default = default_folder(recipe, identity)
    if parent is not None:
        return parent / default.name
    return out or (Path(recipe.output.folder) if recipe.output.folder else default)


def _make(setting: Setting, folder: Path, clock: _Clock, processes: Processes, progress: Progress) -> Report:
    recipe = setting.recipe
    if processes.count > 1 and recipe.batch_norm == "recalibrate":
        raise ConfigError(
            f"batch_norm=recalibrate runs in one process, and {processes.count} were started. Start it without a "
            "launcher of processes."
        )
    with clock.phase("load"):
        device = device_named(recipe.runtime.device)
        # Before anything is fused: what is wrong with models or tasks is told at once, the models' first.
        _check_models(setting)
        tasks = build_tasks(setting)
    with clock.phase("fuse"):
        fused, passes, left = _fuse(setting, folder, device, processes, progress)
        fused = recalibrated(setting, fused, folder, left, progress)
    with clock.phase("evaluate"):
        rows = score_all(setting, tasks, fused, folder / TASKS, progress, processes)
    return processes.from_main(lambda: _written(setting, folder, clock, report_of(setting, rows, left), passes))


def _check_models(setting: Setting) -> None:
    """Refuse experts that do not fit, where a method needs that they do.

    Raises:
        IncompatibleModels: with every difference between the models.
    """
    entry, pool = methods[setting.recipe.method.name], setting.pool
    if entry.kind in ("stream", "rebuild") and setting.adapters is None and not (entry.data or {}).get("stacks"):
        fit(pool.reference, pool.experts, tower=pool.tower, glimpse=True)


def _written(setting: Setting, folder: Path, clock: _Clock, report: Report, passes: int | None) -> Report:
    """Return a report, once it and the run's circumstances are on disk."""
    recipe = setting.recipe
    threads = recipe.runtime.threads
    info = RunInfo.capture(
        started=clock.started,
        phases=clock.phases,
        command=("fusionbench", *sys.argv[1:]),
        passes=passes,
        device=str(device_named(recipe.runtime.device)),
        threads=threads,
    )
    info.save(folder)
    report.save(folder)
    return report


def _fuse(
    setting: Setting, folder: Path, device: torch.device, processes: Processes, progress: Progress
) -> tuple[Fused, int | None, Left]:
    """Return the fused model, how often the inputs were read, and what the method told the report.

    What merges tensor by tensor is done by the main process; the others then find it in the folder.
    """
    if methods[setting.recipe.method.name].kind == "whole":
        return _fuse_whole(setting, folder, device, processes, progress)
    return processes.main_first(lambda: _fuse_by_tensor(setting, folder, device, processes, progress))


def _fuse_by_tensor(
    setting: Setting, folder: Path, device: torch.device, processes: Processes, progress: Progress
) -> tuple[Fused, int | None, Left]:
    """Return what `_fuse` does for methods that need no module."""
    recipe = setting.recipe
    entry = methods[recipe.method.name]
    if entry.kind == "rebuild":
        return fuse_rebuilt(setting, folder, progress)
    if entry.kind == "reference":
        kept = (
            []
            if recipe.output.dtype == "base"
            else [f"output.dtype={recipe.output.dtype}: these models are as they are"]
        )
        return fused_reference(entry.name, setting.pool, device), None, Left(notes=kept)
    if setting.adapters is not None:
        return fuse_adapters(setting, setting.adapters, folder, progress)
    place = folder / MODEL
    if place.exists():
        return opened(_model_in(folder), setting.pool, device), None, read_left(folder)
    bench, left = with_collected(bench_of(setting, folder, progress, processes))
    plan = plan_of_recipe(recipe, bench.pool)
    left.notes += [note for note in plan.notes if note not in left.notes]
    if left.used or left.notes:
        write_left(folder, left)
    if recipe.output.model:
        passes = merge(recipe, place, progress, bench.pool).passes
        return opened(open_source(place), setting.pool, device), passes, left
    sink = MemorySink([step.output for step in plan])
    passes = run_recipe_plan(plan, recipe.method, recipe.runtime, sink, progress)
    return fused_weights(sink.weights, setting.pool, device), passes, left


def _fuse_whole(
    setting: Setting, folder: Path, device: torch.device, processes: Processes, progress: Progress
) -> tuple[Fused, int | None, Left]:
    """Run a method that looks at data; merged weights that an earlier attempt wrote are read instead."""
    place = folder / MODEL

    def readable() -> bool:
        return place.exists() and read_left(folder).kind in (FusedWeights.kind, MixedModel.kind)

    if processes.from_main(readable):
        return opened(_model_in(folder), setting.pool, device), None, read_left(folder)
    fused, left = fuse_whole(bench_of(setting, folder, progress, processes))
    if processes.is_main:
        write_left(folder, left)
        if setting.recipe.output.model and not place.exists():
            fused.save(place)
    return fused, None, left
