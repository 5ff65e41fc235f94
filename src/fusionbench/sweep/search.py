"""Search a recipe's parameters on the validation split with Optuna, then score the best on the test split once."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusionbench.compat import load_recipe
from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, FusionBenchError, Interrupted, MissingExtra
from fusionbench.merge import Progress, silent
from fusionbench.records import DataUse, Report, write_whole
from fusionbench.registry import suggestion
from fusionbench.run import RunResult, run
from fusionbench.suites.load import load_suite
from fusionbench.sweep.space import split

if TYPE_CHECKING:
    import optuna

Sampler = Literal["tpe", "cmaes", "nsga2", "random"]
SELECTION = "validation"
"""The split on which parameters are chosen; the test split is looked at once, at the end."""
AVERAGE = "average"
BEST = "best"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trial:
    """One try: its number, the overrides that were drawn, its values or why it failed."""

    number: int
    overrides: tuple[str, ...]
    values: tuple[float, ...] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        trials: all, in order.
        best: numbers of the best trial, or of those that no other trial beats in every objective.
        results: their final runs on the recipe's own split.
    """

    trials: tuple[Trial, ...]
    best: tuple[int, ...]
    results: tuple[RunResult, ...]


def search(
    file: Path | None,
    overrides: Sequence[str],
    out: Path,
    *,
    trials: int,
    sampler: Sampler = "tpe",
    objectives: Sequence[str] = (AVERAGE,),
    progress: Progress = silent,
) -> Found:
    """Search on the validation split; score what was found on the recipe's split (test by default).

    Each trial is an ordinary run in `out/trials`; the study is `out/study.db` (SQLite), which the same call goes on
    with. A trial that fails is kept with its reason. The final runs are in `out/best`, and say in their reports that
    they were selected on validation data.

    Args:
        file: a recipe's YAML.
        overrides: of the recipe; those with several values or an interval are searched, see `fusionbench.sweep.space`.
        out: folder of the search.
        trials: how many in all, those of earlier calls included.
        sampler: "tpe", "cmaes", "nsga2" (several objectives) or "random"; seeded by the recipe's seed.
        objectives: "average" (of the seen tasks' primary metrics), or names of tasks; each is to be as good as it can.
        progress: told what is being done.

    Raises:
        ConfigError: where nothing is to be searched, an objective is not known, the folder holds another search, or
            every trial failed.
        MissingExtra: where Optuna is not installed.
        Interrupted: on Ctrl-C; the same call goes on.
    """
    optuna = _optuna()
    fixed, space = split(overrides, _experts(file, overrides))
    template = _recipe(file, [*fixed, *(dimension.draw(_middle, _first) for dimension in space)])
    _check(template, objectives, trials)
    asked = {
        "recipe": file.read_text() if file else None,
        "overrides": list(overrides),
        "sampler": sampler,
        "objectives": list(objectives),
    }
    out.mkdir(parents=True, exist_ok=True)
    study = _study(optuna, out, asked, sampler, template.seed, directions=["maximize"] * len(objectives))

    def try_one(trial: Any, advance: Progress) -> list[float]:
        drawn = [dimension.draw(_number(trial), trial.suggest_categorical) for dimension in space]
        trial.set_user_attr("overrides", drawn)
        recipe = _recipe(file, [*fixed, *drawn, f"tasks.split={SELECTION}", "output.model=false"])
        report = run(recipe, parent=out / "trials", progress=advance).report
        return [_value(report, objective) for objective in objectives]

    _go_on(optuna, study, try_one, trials, progress)
    best = _best(study)
    _remove_beaten(out / BEST, best)
    results = tuple(_final(file, fixed, study, number, out, progress) for number in best)
    found = Found(tuple(_plain(trial) for trial in study.get_trials()), best, results)
    _write(out, asked, found)
    return found


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtra("A search", "'fusionbench[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _recipe(file: Path | None, overrides: Sequence[str]) -> Recipe:
    return load_recipe(file, list(overrides))[0]


def _experts(file: Path | None, overrides: Sequence[str]) -> int:
    """Return how many experts are fused, which `each` needs to know; 0 where it is not asked for."""
    if not any("=each(" in text for text in overrides):
        return 0
    plain = [text for text in overrides if not text.startswith("method.")]
    recipe = _recipe(file, [*plain, "method=pretrained"])
    if recipe.experts or recipe.suite is None:
        return len(recipe.experts)
    return len(load_suite(recipe.suite).suite.pool.experts)


def _check(template: Recipe, objectives: Sequence[str], trials: int) -> None:
    if template.suite is None:
        raise ConfigError("A search scores models: add suite=NAME, such as suite=mini/clip.")
    if trials < 1:
        raise ConfigError(f"trials={trials}: at least one is needed.")
    if template.tasks.split == SELECTION:
        raise ConfigError("tasks.split=validation: the search selects there already; its last run is on another split.")
    suite = load_suite(template.suite).suite
    for objective in objectives:
        known = [AVERAGE, *suite.seen, *suite.unseen]
        if objective not in known:
            raise ConfigError(f"There is no objective {objective!r}. {suggestion(objective, known)}")


def _middle(name: str, low: float, high: float, whole: bool, log: bool) -> float:  # noqa: ARG001
    return low


def _first(name: str, values: Sequence[str]) -> str:  # noqa: ARG001
    return values[0]


def _number(trial: "optuna.Trial") -> Callable[[str, float, float, bool, bool], float]:
    def draw(name: str, low: float, high: float, whole: bool, log: bool) -> float:
        return trial.suggest_int(name, int(low), int(high)) if whole else trial.suggest_float(name, low, high, log=log)

    return draw


def _study(
    optuna: Any, out: Path, asked: dict[str, Any], sampler: str, seed: int, *, directions: list[str]
) -> "optuna.Study":
    """Open or make the study; a study of another search is refused."""
    study = optuna.create_study(
        storage=f"sqlite:///{(out / 'study.db').resolve()}",
        study_name="search",
        directions=directions,
        load_if_exists=True,
    )
    before = study.user_attrs.get("asked")
    if before is not None and before != asked:
        changed = [key for key in asked if asked[key] != before.get(key)]
        raise ConfigError(f"{out} holds another search (other {', '.join(changed)}). Choose another --out.")
    study.set_user_attr("asked", asked)
    # A sampler that starts again where an earlier call stopped must not draw the same numbers once more.
    study.sampler = _sampler(optuna, sampler, seed + len(study.get_trials()))
    return study  # type: ignore[no-any-return]


def _sampler(optuna: Any, name: str, seed: int) -> Any:
    makers = {
        "tpe": optuna.samplers.TPESampler,
        "cmaes": optuna.samplers.CmaEsSampler,
        "nsga2": optuna.samplers.NSGAIISampler,
        "random": optuna.samplers.RandomSampler,
    }
    if name not in makers:
        raise ConfigError(f"There is no sampler {name!r}. {suggestion(name, list(makers))}")
    return makers[name](seed=seed)


def _go_on(
    optuna: Any,
    study: "optuna.Study",
    try_one: Callable[[Any, Progress], list[float]],
    trials: int,
    progress: Progress,
) -> None:
    """Try until the study has so many trials; those that a killed call left unfinished count as failed."""
    failed = optuna.trial.TrialState.FAIL
    for unfinished in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(unfinished.number, state=failed)
    for number in range(len(study.get_trials()), trials):
        trial = study.ask()

        def advance(what: str, done: int, total: int, label: str = f"{number + 1}/{trials} ") -> None:
            progress(label + what, done, total)

        try:
            study.tell(trial, try_one(trial, advance))
        except (Interrupted, KeyboardInterrupt):
            study.tell(trial, state=failed)
            raise
        except Exception as error:
            # A bug that one draw meets is that trial's, with its trace in the log, and no reason to lose the others.
            known = isinstance(error, FusionBenchError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            trial.set_user_attr("error", reason)
            study.tell(trial, state=failed)
            logger.warning("trial %d failed: %s", number, reason, exc_info=None if known else error)
    if not study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        reason = next((t.user_attrs["error"] for t in study.get_trials() if "error" in t.user_attrs), "interrupted")
        raise ConfigError(f"Every trial failed. The first reason: {reason}")


def _best(study: "optuna.Study") -> tuple[int, ...]:
    """Return the best trial, or those that none beats in all objectives; of equal draws and values the first."""
    first: dict[tuple[Any, ...], int] = {}
    for trial in sorted(study.best_trials, key=lambda trial: trial.number):
        key = tuple(trial.values) if len(study.directions) == 1 else tuple(trial.user_attrs["overrides"])
        first.setdefault(key, trial.number)
    return tuple(first.values())


def _value(report: Report, objective: str) -> float:
    """Return what is to be made large: an average, or a task's primary value, turned round where less is better."""
    if objective == AVERAGE:
        if report.primary_average is None:
            raise ConfigError("The seen tasks have no common average; search on single tasks with --objective TASK.")
        return report.primary_average.value
    name, score = next(iter(report.tasks[objective].metrics.items()))
    if score.value is None:
        raise ConfigError(f"{objective} gave no value.")
    return score.value if report.metrics[name].better == "higher" else -score.value


def _final(
    file: Path | None, fixed: Sequence[str], study: "optuna.Study", number: int, out: Path, progress: Progress
) -> RunResult:
    """Score a trial's parameters on the recipe's own split, and say in the report what chose them."""
    drawn = study.get_trials()[number].user_attrs["overrides"]
    result = run(_recipe(file, [*fixed, *drawn]), out=out / BEST / f"trial-{number}", progress=progress)
    seen = tuple(name for name, score in result.report.tasks.items() if score.seen)
    report = result.report.model_copy(update={"selected_on": DataUse(split=SELECTION, tasks=seen)})
    report.save(result.folder)
    return RunResult(result.folder, report, result.reused)


def _remove_beaten(folder: Path, best: Sequence[int]) -> None:
    """Remove the final runs of earlier calls that more trials have beaten."""
    for old in folder.glob("trial-*"):
        if old.name not in {f"trial-{number}" for number in best}:
            shutil.rmtree(old)


def _plain(trial: Any) -> Trial:
    values = tuple(trial.values) if trial.values is not None else None
    error = trial.user_attrs.get("error", None if values else "interrupted")
    return Trial(trial.number, tuple(trial.user_attrs.get("overrides", ())), values, error)


def _write(out: Path, asked: dict[str, Any], found: Found) -> None:
    rows = [
        {"number": t.number, "overrides": list(t.overrides), "values": t.values and list(t.values), "error": t.error}
        for t in found.trials
    ]
    document = {"selected_on": SELECTION, **asked, "best": list(found.best), "trials": rows}
    write_whole(out / "search.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
