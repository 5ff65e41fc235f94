"""The study of a search: Optuna's, in a file, so that the same call goes on; imported when it is asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fusionbench.errors import ConfigError, MissingExtra, OutputError
from fusionbench.registry import suggestion
from fusionbench.sweep.space import Dimension
from fusionbench.weights.partial import written_to

if TYPE_CHECKING:
    import optuna

Sampler = Literal["tpe", "cmaes", "nsga2", "random"]
STUDY = "study.db"
DRAWN, REASONS, ASKED = "overrides", "reasons", "asked"


@dataclass(frozen=True, slots=True)
class Trial:
    """One try: its number, the overrides that were drawn, its values or why it failed."""

    number: int
    overrides: tuple[str, ...]
    values: tuple[float, ...] | None
    error: str | None


def load_optuna() -> Any:
    """Return the package, quieter.

    Raises:
        MissingExtra: where it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtra("A search", "'fusionbench[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextmanager
def kept_in(out: Path) -> Iterator[None]:
    """Make the folder of a study, and turn what its file refuses into an error that names it.

    Raises:
        OutputError: where the disk is full or cannot be written, or the file is damaged.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DatabaseError

    with written_to(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except (DatabaseError, StorageInternalError) as error:
        cause = error if isinstance(error, DatabaseError) else error.__cause__
        why = getattr(cause, "orig", None) or error
        raise OutputError(
            f"{out / STUDY} cannot be read or written: {why}. Free some space, or choose another --out."
        ) from None


def open_study(optuna: Any, out: Path, asked: Mapping[str, Any], objectives: int) -> "optuna.Study":
    """Open or make the study in `out`, each objective of which is to be large.

    Raises:
        ConfigError: where it is of another search.
    """
    study = optuna.create_study(
        storage=f"sqlite:///{(out / STUDY).resolve()}",
        study_name="search",
        directions=["maximize"] * objectives,
        load_if_exists=True,
    )
    before = study.user_attrs.get(ASKED)
    changed = [key for key in asked if before is not None and asked[key] != before.get(key)]
    if changed:
        raise ConfigError(f"{out} holds another search (other {', '.join(changed)}). Choose another --out.")
    study.set_user_attr(ASKED, dict(asked))
    return study  # type: ignore[no-any-return]


def sampler_of(optuna: Any, name: str, seed: int, *, at_once: int = 1) -> Any:
    """Return a sampler; where several trials are tried at once, those of TPE keep away from each other.

    Raises:
        ConfigError: where there is none of that name.
    """
    samplers = optuna.samplers
    makers: dict[str, Callable[[], Any]] = {
        "tpe": lambda: samplers.TPESampler(seed=seed, constant_liar=at_once > 1),
        "cmaes": lambda: samplers.CmaEsSampler(seed=seed),
        "nsga2": lambda: samplers.NSGAIISampler(seed=seed),
        "random": lambda: samplers.RandomSampler(seed=seed),
    }
    if name not in makers:
        raise ConfigError(f"There is no sampler {name!r}. {suggestion(name, list(makers))}")
    return makers[name]()


def seed_of(seed: int, number: int) -> int:
    """Return the seed of one trial's draws: searches of neighbouring seeds share none."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def draw(optuna: Any, study: "optuna.Study", sampler: Any, space: Sequence[Dimension]) -> list[str]:
    """Return what one more trial draws; a process that is killed here leaves the trial whole in the study, or none."""
    aside = optuna.create_study(directions=study.directions, sampler=sampler)
    aside.add_trials(study.get_trials(deepcopy=False))
    trial = aside.ask()

    def number(name: str, low: float, high: float, whole: bool, log: bool) -> float:
        return trial.suggest_int(name, int(low), int(high)) if whole else trial.suggest_float(name, low, high, log=log)  # type: ignore[no-any-return]

    drawn = [dimension.draw(number, trial.suggest_categorical) for dimension in space]
    trial.set_user_attr(DRAWN, drawn)
    study.add_trial(aside.get_trials(deepcopy=False)[-1])
    return drawn


def drawn_and_left(optuna: Any, study: "optuna.Study") -> dict[int, list[str]]:
    """Return what a killed call had drawn and not scored, by number; what holds no draws counts as failed."""
    left = {}
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        if DRAWN in trial.user_attrs:
            left[trial.number] = trial.user_attrs[DRAWN]
        else:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return left


def best_of(study: "optuna.Study") -> tuple[int, ...]:
    """Return the best trial, or those that none beats in all objectives; of equal draws and values the first."""
    first: dict[tuple[Any, ...], int] = {}
    for trial in sorted(study.best_trials, key=lambda trial: trial.number):
        key = tuple(trial.values) if len(study.directions) == 1 else tuple(trial.user_attrs[DRAWN])
        first.setdefault(key, trial.number)
    return tuple(first.values())


def fail(optuna: Any, study: "optuna.Study", number: int, reason: str) -> None:
    """End a trial without values; the study keeps the reason."""
    # With the study, since a trial that an earlier call drew takes no attributes any more.
    study.set_user_attr(REASONS, {**study.user_attrs.get(REASONS, {}), str(number): reason})
    study.tell(number, state=optuna.trial.TrialState.FAIL)


def trials_of(study: "optuna.Study") -> tuple[Trial, ...]:
    """Return all trials, in order; one that a killed call left without values says so."""
    reasons = study.user_attrs.get(REASONS, {})
    found = []
    for trial in study.get_trials():
        values = tuple(trial.values) if trial.values is not None else None
        error = None if values else reasons.get(str(trial.number), "interrupted")
        found.append(Trial(trial.number, tuple(trial.user_attrs.get(DRAWN, ())), values, error))
    return tuple(found)
