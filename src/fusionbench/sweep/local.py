"""Run many recipes in this process; one that fails is an outcome, never the end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusionbench.config import Recipe
from fusionbench.errors import FusionBenchError, Interrupted
from fusionbench.merge import Progress, silent
from fusionbench.run import RunResult, run


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one recipe: a result, or the user's mistake in it."""

    recipe: Recipe
    result: RunResult | None
    error: FusionBenchError | None = None


def run_all(
    recipes: Sequence[Recipe], parent: Path, *, force: bool = False, progress: Progress = silent
) -> Iterator[Outcome]:
    """Yield the outcome of each recipe as it is done; each has a folder of its own below `parent`.

    Args:
        recipes: in the order in which they are run.
        parent: folder of the runs' folders.
        force: make finished runs anew.
        progress: told what is being done.

    Raises:
        Interrupted: on Ctrl-C; the same command goes on.
    """
    for number, recipe in enumerate(recipes):
        label = f"{number + 1}/{len(recipes)} "

        def labelled(what: str, done: int, total: int, label: str = label) -> None:
            progress(label + what, done, total)

        try:
            yield Outcome(recipe, run(recipe, parent=parent, force=force, progress=labelled))
        except Interrupted:
            raise
        except FusionBenchError as error:
            yield Outcome(recipe, None, error)
