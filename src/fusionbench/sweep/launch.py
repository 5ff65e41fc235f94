"""Run many recipes: here, in processes of this machine, or on a cluster; one that fails is an outcome, not the end."""

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from fusionbench.config import Recipe
from fusionbench.config.launcher import LauncherConfig
from fusionbench.errors import ConfigError
from fusionbench.launch import interruptible, launch
from fusionbench.merge import Progress, silent
from fusionbench.records import Remote
from fusionbench.run import RunResult
from fusionbench.sweep.launched import job_of, outcome_of
from fusionbench.sweep.local import Outcome, run_here


def run_all(
    recipes: Sequence[Recipe],
    parent: Path | Remote,
    *,
    names: Sequence[str] | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Iterator[Outcome]:
    """Yield the outcome of each recipe, in the order of the recipes; each has a folder of its own below `parent`.

    Args:
        recipes: what to run; their `runtime.launcher` says where.
        parent: folder of the runs' folders; with a launcher of several machines, one that all of them share, or a
            remote one.
        names: of the runs' folders; else `<method>-<8 hex>`.
        force: make finished runs anew.
        progress: told what is being done.

    Raises:
        ConfigError: where the recipes name different launchers.
        MissingExtra: where the launcher's package is not installed.
        Interrupted: on Ctrl-C; all runs are stopped, what is finished is kept, and the same command goes on.
    """
    early: dict[int, Outcome] = {}
    due = 0
    with closing(run_as_finished(recipes, parent, names=names, force=force, progress=progress)) as finished:
        for number, outcome in finished:
            early[number] = outcome
            while due in early:
                yield early.pop(due)
                due += 1


def run_as_finished(
    recipes: Sequence[Recipe],
    parent: Path | Remote,
    *,
    names: Sequence[str] | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Generator[tuple[int, Outcome], None, None]:
    """Yield the number and outcome of each recipe as soon as it is done, whatever the order; else as `run_all`."""
    launcher = _launcher(recipes)
    if launcher is None:
        yield from run_here(recipes, parent, names=names, force=force, progress=progress)
        return
    same = _same(recipes, names)
    first = list(same)
    jobs = [job_of(recipes[number], parent, name=names[number] if names else None, force=force) for number in first]
    done = 0
    progress("runs", done, len(recipes))
    with interruptible(parent), closing(launch(jobs, launcher, recipes[0].runtime.threads)) as answers:
        for job, answer in answers:
            for number in same[first[job]]:
                done += 1
                progress("runs", done, len(recipes))
                yield number, _again(outcome_of(recipes[number], parent, answer), first=number == first[job])


def _launcher(recipes: Sequence[Recipe]) -> LauncherConfig | None:
    if not recipes:
        return None
    asked = recipes[0].runtime.launcher
    other = next((recipe.runtime.launcher for recipe in recipes if recipe.runtime.launcher != asked), asked)
    if other != asked:
        raise ConfigError(
            f"runtime.launcher: the runs of a sweep have one launcher; here are {asked} and {other}. Choose one."
        )
    return asked


def _same(recipes: Sequence[Recipe], names: Sequence[str] | None) -> dict[int, list[int]]:
    """Return the numbers of equal recipes under that of the first: two processes must not make one folder."""
    groups: dict[str, list[int]] = {}
    for number, recipe in enumerate(recipes):
        document = recipe.dump()
        del document["runtime"], document["output"]["folder"]
        groups.setdefault(json.dumps([document, names and names[number]]), []).append(number)
    return {numbers[0]: numbers for numbers in groups.values()}


def _again(outcome: Outcome, *, first: bool) -> Outcome:
    """Return the outcome of a recipe that was there before, as it is where runs go one after another."""
    if first or outcome.result is None:
        return outcome
    return Outcome(outcome.recipe, RunResult(outcome.result.folder, outcome.result.report, reused=True))
