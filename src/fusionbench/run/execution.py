"""One run from recipe to report: what is finished is found again, what was begun goes on, nothing is half-written."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from fusionbench.algorithm import Algorithm
from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, Interrupted, OutputError
from fusionbench.merge import Pool, Progress, merge, silent
from fusionbench.mixing import Fused
from fusionbench.mixing.build import fused_weights
from fusionbench.records import ModelFacts, Report, RunInfo
from fusionbench.registry import methods
from fusionbench.run.evaluation import facts_of, report_of, score
from fusionbench.run.folder import MODEL, TASKS, State, begin, default_folder, locked, state_of
from fusionbench.run.setting import Setting, resolve
from fusionbench.run.whole import Left, fuse_whole, read_left, with_collected, write_left
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights


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


def run(
    recipe: Recipe,
    *,
    out: Path | None = None,
    parent: Path | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> RunResult:
    """Run a recipe and return its report; a finished run of the same identity is only read.

    Args:
        recipe: what to fuse, how, and what to evaluate it on.
        out: the run's own folder; else the recipe's, else `runs/<suite>/<method>-<8 hex>`.
        parent: folder below which the run gets a folder of its own, for several runs.
        force: make it anew, even where it is finished.
        progress: told what is being done.

    Raises:
        FusionBenchError: for every mistake of the user; nothing half-written is left under its final name.
        Interrupted: on Ctrl-C; the same command goes on.
    """
    clock = _Clock()
    with clock.phase("load"):
        setting = resolve(recipe, progress)
        identity = setting.identity()
    if not setting.tasks and not recipe.output.model:
        raise ConfigError("There is nothing to do: the recipe has no tasks, and output.model=false.")
    folder = _folder(recipe, identity, out, parent)
    check_apart(folder, setting.pool)
    with locked(folder):
        state = state_of(folder, identity, force=force)
        if state is State.finished:
            return RunResult(folder, Report.load(folder), reused=True)
        begin(folder, recipe, identity)
        try:
            return RunResult(folder, _make(setting, folder, clock, progress), reused=False)
        except KeyboardInterrupt:
            raise Interrupted(f"Stopped. What is finished is kept in {folder}; the same command goes on.") from None


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


def _folder(recipe: Recipe, identity: str, out: Path | None, parent: Path | None) -> Path:
    default = default_folder(recipe, identity)
    if parent is not None:
        return parent / default.name
    return out or (Path(recipe.output.folder) if recipe.output.folder else default)


def _make(setting: Setting, folder: Path, clock: _Clock, progress: Progress) -> Report:
    recipe = setting.recipe
    with clock.phase("fuse"):
        fused, passes, left = _fuse(setting, folder, progress)
    with clock.phase("evaluate"):
        scored = score(setting, fused, folder / TASKS, progress)
    report = report_of(setting, scored, _facts(setting), left)
    threads = recipe.runtime.threads
    info = RunInfo.capture(
        started=clock.started,
        phases=clock.phases,
        command=("fusionbench", *sys.argv[1:]),
        passes=passes,
        device=recipe.runtime.device,
        threads=threads,
    )
    info.save(folder)
    report.save(folder)
    return report


def _fuse(setting: Setting, folder: Path, progress: Progress) -> tuple[Fused, int | None, Left]:
    """Return the fused model, how often the inputs were read, and what the method told the report."""
    recipe = setting.recipe
    algorithm = Algorithm(recipe.method, recipe.seed, recipe.batch_norm)
    kind, place = algorithm.entry.kind, folder / MODEL
    if kind == "whole":
        return _fuse_whole(setting, folder, progress)
    if kind == "reference":
        return algorithm(setting.pool), None, Left()
    passes = None
    if place.exists():
        left = read_left(folder)
    else:
        setting, left = with_collected(setting, folder, progress)
        if not recipe.output.model:
            return algorithm(setting.pool), None, left
        passes = merge(recipe, place, progress, setting.pool).passes
    return fused_weights(LazyWeights(open_source(place)), setting.pool), passes, left


def _fuse_whole(setting: Setting, folder: Path, progress: Progress) -> tuple[Fused, int | None, Left]:
    """Run a method that looks at data; merged weights that an earlier attempt wrote are read instead."""
    place = folder / MODEL
    ensemble = methods[setting.recipe.method.name].category == "ensemble"
    if place.exists() and not ensemble:
        return fused_weights(LazyWeights(open_source(place)), setting.pool), None, read_left(folder)
    fused, left = fuse_whole(setting, folder, progress)
    write_left(folder, left)
    if setting.recipe.output.model and not place.exists():
        fused.save(place)
    return fused, None, left


def _facts(setting: Setting) -> ModelFacts:
    """Return kind and size of a run's model; members of an ensemble, and of the row *individual*, count together."""
    entry = methods[setting.recipe.method.name]
    kind = "per_task" if entry.name == "individual" else "ensemble" if entry.category == "ensemble" else "weights"
    return facts_of(setting.pool.reference, kind, 1 if kind == "weights" else len(setting.pool.experts))
