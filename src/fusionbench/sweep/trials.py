"""The trials of a search: one by one in this process, or several at once by a launcher."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, FusionBenchError, Interrupted
from fusionbench.merge import Progress
from fusionbench.records import Report
from fusionbench.run import run
from fusionbench.sweep.launch import run_all
from fusionbench.sweep.space import Dimension
from fusionbench.sweep.study import draw, drawn_and_left, fail, sampler_of, seed_of, trials_of

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a search tries, and how.

    Attributes:
        space: what is drawn.
        recipe: from drawn overrides to the recipe of a trial's run.
        values: from the run's report to the objectives, each to be large.
        folder: of the trials' runs.
        trials: how many in all, those of earlier calls included.
        sampler: its name.
        seed: of the sampler.
        at_once: how many are drawn before the first of them is scored; None: one by one in this process.
    """

    space: Sequence[Dimension]
    recipe: Callable[[Sequence[str]], Recipe]
    values: Callable[[Report], list[float]]
    folder: Path
    trials: int
    sampler: str
    seed: int
    at_once: int | None


def try_all(optuna: Any, study: "optuna.Study", plan: Plan, progress: Progress) -> None:
    """Try until the study has so many trials.

    What a trial draws follows from the seed, its number and what is known of the trials before, and a trial that was
    drawn stays the study's: a search that was killed does it over and ends as if it had not been killed.

    Raises:
        ConfigError: where every trial failed.
        Interrupted: on Ctrl-C; the same call goes on.
    """
    at_once = plan.at_once or 1
    drawn = drawn_and_left(optuna, study)
    number = len(study.get_trials())
    while drawn or number < plan.trials:
        # Batches end at multiples of their size, whatever a killed call had drawn of one.
        while number < plan.trials and (not drawn or number % at_once):
            sampler = sampler_of(optuna, plan.sampler, seed_of(plan.seed, number), at_once=at_once)
            drawn[number] = draw(optuna, study, sampler, plan.space)
            number += 1
        _score(optuna, study, plan, drawn, progress)
        drawn = {}
    tried = trials_of(study)
    if all(trial.values is None for trial in tried):
        raise ConfigError(f"Every trial failed. The first reason: {tried[0].error}")


def _score(optuna: Any, study: "optuna.Study", plan: Plan, drawn: dict[int, list[str]], progress: Progress) -> None:
    """Run what was drawn, and tell the study in the order of the numbers."""
    recipes: dict[int, Recipe] = {}
    for number, overrides in drawn.items():
        with _or_failed(optuna, study, number, FusionBenchError):
            recipes[number] = plan.recipe(overrides)
    if plan.at_once is None:
        for number, recipe in recipes.items():
            # A bug that one draw meets is that trial's, and no reason to lose the others.
            with _or_failed(optuna, study, number, Exception):
                advance = _labelled(progress, f"{number + 1}/{plan.trials} ")
                result = run(recipe, parent=plan.folder, progress=advance)
                study.tell(number, plan.values(result.report))
        return
    advance = _labelled(progress, f"{min(drawn) + 1}-{max(drawn) + 1}/{plan.trials} ")
    outcomes = run_all(list(recipes.values()), plan.folder, progress=advance)
    for number, outcome in zip(recipes, outcomes, strict=True):
        with _or_failed(optuna, study, number, FusionBenchError):
            if outcome.result is None:
                raise outcome.error or FusionBenchError("The run gave no result.")
            study.tell(number, plan.values(outcome.result.report))


def _labelled(progress: Progress, label: str) -> Progress:
    return lambda what, done, total: progress(label + what, done, total)


@contextmanager
def _or_failed(optuna: Any, study: "optuna.Study", number: int, kind: type[Exception]) -> Iterator[None]:
    """Keep a trial that meets such an error as failed, with the reason; Ctrl-C is none of its own."""
    try:
        yield
    except Interrupted:
        raise
    except kind as error:
        known = isinstance(error, FusionBenchError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        fail(optuna, study, number, reason)
        logger.warning("trial %d failed: %s", number, reason, exc_info=None if known else error)
