"""Search a recipe's parameters on the validation split with Optuna, then score the best on the test split once."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusionbench.compat import load_recipe
from fusionbench.config import Recipe, RuntimeConfig
from fusionbench.errors import ConfigError, FusionBenchError
from fusionbench.merge import Progress, silent
from fusionbench.records import DataUse, Report, write_whole
from fusionbench.registry import suggestion
from fusionbench.run import RunResult
from fusionbench.suites.load import load_suite
from fusionbench.sweep.launch import run_all
from fusionbench.sweep.space import Dimension, split
from fusionbench.sweep.study import Sampler, Trial, best_of, kept_in, load_optuna, open_study, sampler_of, trials_of
from fusionbench.sweep.trials import Plan, try_all

SELECTION = "validation"
"""The split on which parameters are chosen; the test split is looked at once, at the end."""
AVERAGE = "average"
BEST = "best"


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
    optuna = load_optuna()
    fixed, space = split(overrides, _experts(file, overrides))
    template = _recipe(file, [*fixed, *(dimension.draw(_middle, _first) for dimension in space)])
    _check(template, space, objectives, trials)
    asked = {
        "recipe": file.read_text() if file else None,
        "overrides": [text for text in overrides if not _of_runtime(text)],
        "sampler": sampler,
        "objectives": list(objectives),
    }
    plan = Plan(
        space=space,
        recipe=lambda drawn: _recipe(file, [*fixed, *drawn, f"tasks.split={SELECTION}", "output.model=false"]),
        values=lambda report: [_value(report, objective) for objective in objectives],
        folder=out / "trials",
        trials=trials,
        sampler=sampler,
        seed=template.seed,
        at_once=_at_once(template.runtime),
    )
    sampler_of(optuna, sampler, 0)
    with kept_in(out):
        study = open_study(optuna, out, asked, len(objectives))
        try_all(optuna, study, plan, progress)
        tried, best = trials_of(study), best_of(study)
    _remove_beaten(out / BEST, best)
    recipes = {number: _recipe(file, [*fixed, *tried[number].overrides]) for number in best}
    found = Found(tried, best, tuple(_final(recipes, out / BEST, progress)))
    _write(out, {**asked, "at_once": plan.at_once}, found)
    return found


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


def _check(template: Recipe, space: Sequence[Dimension], objectives: Sequence[str], trials: int) -> None:
    if template.suite is None:
        raise ConfigError("A search scores models: add suite=NAME, such as suite=mini/clip.")
    how = [dimension.key for dimension in space if _of_runtime(dimension.key)]
    if how:
        raise ConfigError(f"{', '.join(how)}: how the work is done changes no score, so it cannot be searched.")
    if trials < 1:
        raise ConfigError(f"trials={trials}: at least one is needed.")
    if template.tasks.split == SELECTION:
        raise ConfigError("tasks.split=validation: the search selects there already; its last run is on another split.")
    suite = load_suite(template.suite).suite
    for objective in objectives:
        known = [AVERAGE, *suite.seen, *suite.unseen]
        if objective not in known:
            raise ConfigError(f"There is no objective {objective!r}. {suggestion(objective, known)}")


def _at_once(runtime: RuntimeConfig) -> int | None:
    """Return how many trials are drawn at once: as many as there are workers; None without a launcher.

    Raises:
        ConfigError: where that is not known beforehand, so that the draws would depend on the cluster.
    """
    launcher = runtime.launcher
    if launcher is None:
        return None
    if launcher.workers is not None:
        return launcher.workers
    if launcher.name == "processes":
        return max(1, runtime.threads // launcher.cpus)
    raise ConfigError(
        f"launcher={launcher.name}: a search draws as many trials at once as there are workers, which changes what is "
        "drawn. Say how many: launcher.workers=8"
    )


def _of_runtime(override: str) -> bool:
    """Whether an override says how the work is done, which makes no other search."""
    return override.partition("=")[0].lstrip("+~").partition(".")[0] in ("runtime", "launcher")


def _middle(name: str, low: float, high: float, whole: bool, log: bool) -> float:  # noqa: ARG001
    return low


def _first(name: str, values: Sequence[str]) -> str:  # noqa: ARG001
    return values[0]


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


def _final(recipes: Mapping[int, Recipe], folder: Path, progress: Progress) -> Iterator[RunResult]:
    """Score trials' parameters on the recipe's own split, and say in the reports what chose them."""
    names = [f"trial-{number}" for number in recipes]
    for outcome in run_all(list(recipes.values()), folder, names=names, progress=progress):
        if outcome.result is None:
            raise outcome.error or FusionBenchError("The run gave no result.")
        result = outcome.result
        seen = tuple(name for name, score in result.report.tasks.items() if score.seen)
        report = result.report.model_copy(update={"selected_on": DataUse(split=SELECTION, tasks=seen)})
        report.save(result.folder)
        yield RunResult(result.folder, report, result.reused)


def _remove_beaten(folder: Path, best: Sequence[int]) -> None:
    """Remove the final runs of earlier calls that more trials have beaten."""
    for old in folder.glob("trial-*"):
        if old.name not in {f"trial-{number}" for number in best}:
            shutil.rmtree(old)


def _write(out: Path, asked: dict[str, Any], found: Found) -> None:
    rows = [
        {"number": t.number, "overrides": list(t.overrides), "values": t.values and list(t.values), "error": t.error}
        for t in found.trials
    ]
    document = {"selected_on": SELECTION, **asked, "best": list(found.best), "trials": rows}
    write_whole(out / "search.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
