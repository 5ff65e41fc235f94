"""Run many recipes in this process, one after another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusionbench.config import Recipe
from fusionbench.errors import FusionBenchError, Interrupted
from fusionbench.merge import Progress, silent
from fusionbench.records import Remote
from fusionbench.run import RunResult, run


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one recipe: a result, or the reason why there is none."""

    recipe: Recipe
    result: RunResult | None
    error: FusionBenchError | None = None


def run_here(
    recipes: Sequence[Recipe],
    parent: Path | Remote,
    *,
    names: Sequence[str] | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Iterator[tuple[int, Outcome]]:
    """Yield the number and outcome of each recipe as it is done, in order.

    Raises:
        Interrupted: on Ctrl-C; the same command goes on.
    """
    for number, recipe in enumerate(recipes):
        label = f"{number + 1}/{len(recipes)} "

        def labelled(what: str, done: int, total: int, label: str = label) -> None:
            progress(label + what, done, total)

        try:
            name = names[number] if names else None
            yield number, Outcome(recipe, run_below(recipe, parent, name, force=force, progress=labelled))
        except Interrupted:
            raise
        except FusionBenchError as error:
            yield number, Outcome(recipe, None, error)


def run_below(
    recipe: Recipe, parent: Path | Remote, name: str | None, *, force: bool, progress: Progress = silent
) -> RunResult:
    """Run a recipe in a folder below `parent`, by the name it would have or by another one."""
    if name is None:
        return run(recipe, parent=parent, force=force, progress=progress)
    return run(recipe, out=parent / name, force=force, progress=progress)
