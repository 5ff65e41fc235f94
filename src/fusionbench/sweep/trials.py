"""The trials of a search: one by one in this process, or several at once by a launcher."""

import logging
from collections.abc import Callable, Sequence
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
from fusionbench.sweep.study import DRAWN, draw, fail, sampler_of, trials_of

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

    One by one, the sampler is seeded once a call, and a trial that a killed call left unfinished counts as failed.
    Several at once, each trial's draws follow from the seed, its number and the trials that are scored, so that a
    search that was killed goes on with the trials it had drawn and ends as if it had not been.

    Raises:
        ConfigError: where every trial failed.
        Interrupted: on Ctrl-C; the same call goes on.
    """
    if plan.at_once is None:
        _one_by_one(optuna, study, plan, progress)
    else:
        _in_batches(optuna, study, plan, plan.at_once, progress)
    tried = trials_of(study)
    if all(trial.values is None for trial in tried):
        raise ConfigError(f"Every trial failed. The first reason: {tried[0].error}")


def _one_by_one(optuna: Any, study: "optuna.Study", plan: Plan, progress: Progress) -> None:
    failed = optuna.trial.TrialState.FAIL
    # A sampler that starts again where an earlier call stopped must not draw the same numbers once more.
    study.sampler = sampler_of(optuna, plan.sampler, plan.seed + len(study.get_trials()))
    for unfinished in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(unfinished.number, state=failed)
    for number in range(len(study.get_trials()), plan.trials):
        trial = study.ask()

        def advance(what: str, done: int, total: int, label: str = f"{number + 1}/{plan.trials} ") -> None:
            progress(label + what, done, total)

        try:
            result = run(plan.recipe(draw(trial, plan.space)), parent=plan.folder, progress=advance)
            study.tell(trial, plan.values(result.report))
        except (Interrupted, KeyboardInterrupt):
            study.tell(trial, state=failed)
            raise
        except Exception as error:
            _fail(optuna, study, number, error)


def _in_batches(optuna: Any, study: "optuna.Study", plan: Plan, at_once: int, progress: Progress) -> None:
    drawn = _left(optuna, study)
    number = len(study.get_trials())
    while drawn or number < plan.trials:
        # Batches end at multiples of their size, whatever a killed call had drawn of one.
        while number < plan.trials and (not drawn or number % at_once):
            study.sampler = sampler_of(optuna, plan.sampler, plan.seed + number, at_once=at_once)
            drawn[number] = draw(study.ask(), plan.space)
            number += 1
        first, last = min(drawn) + 1, max(drawn) + 1

        def advance(what: str, done: int, total: int, label: str = f"{first}-{last}/{plan.trials} ") -> None:
            progress(label + what, done, total)

        _score(optuna, study, plan, drawn, advance)
        drawn = {}


def _left(optuna: Any, study: "optuna.Study") -> dict[int, list[str]]:
    """Return what a killed call had drawn and not scored, by number; what it had half drawn counts as failed."""
    left = {}
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        if DRAWN in trial.user_attrs:
            left[trial.number] = trial.user_attrs[DRAWN]
        else:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return left


def _score(optuna: Any, study: "optuna.Study", plan: Plan, drawn: dict[int, list[str]], progress: Progress) -> None:
    """Run what was drawn, and tell the study in the order of the numbers."""
    recipes: dict[int, Recipe] = {}
    for number, overrides in drawn.items():
        try:
            recipes[number] = plan.recipe(overrides)
        except FusionBenchError as error:
            _fail(optuna, study, number, error)
    outcomes = run_all(list(recipes.values()), plan.folder, progress=progress)
    for number, outcome in zip(recipes, outcomes, strict=True):
        try:
            if outcome.result is None:
                raise outcome.error or FusionBenchError("The run gave no result.")
            study.tell(number, plan.values(outcome.result.report))
        except FusionBenchError as error:
            _fail(optuna, study, number, error)


def _fail(optuna: Any, study: "optuna.Study", number: int, error: Exception) -> None:
    """Keep a trial with its reason. A bug that one draw meets is that trial's, and no reason to lose the others."""
    known = isinstance(error, FusionBenchError)
    reason = str(error) if known else f"{type(error).__name__}: {error}"
    fail(optuna, study, number, reason)
    logger.warning("trial %d failed: %s", number, reason, exc_info=None if known else error)
