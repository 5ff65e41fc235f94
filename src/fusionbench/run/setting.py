"""From a recipe to what it speaks of: opened models, the tasks to score, and what names the run. No torch here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fusionbench.algorithm import open_models
from fusionbench.config import Recipe, SuiteConfig, TasksConfig, identity
from fusionbench.errors import ConfigError
from fusionbench.merge import Pool, Progress, open_pool, tower_of, with_statistics
from fusionbench.registry import families, methods, suggestion
from fusionbench.suites.load import load_suite
from fusionbench.suites.model import ResolvedSuite
from fusionbench.weights.headers import Source

RECORD = "fusionbench.json"
"""What the fine-tuning left beside an expert."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A recipe with everything it refers to.

    Attributes:
        recipe: as it was given.
        pool: its models, opened.
        suite: the suite that it names, with its models at hand.
        tasks: description of each task to score, by name: the seen ones first.
        seen: names of the tasks that experts were trained on.
        notes: what the report should say of the suite.
    """

    recipe: Recipe
    pool: Pool
    suite: ResolvedSuite | None
    tasks: Mapping[str, Mapping[str, Any]]
    seen: frozenset[str]
    notes: tuple[str, ...] = ()

    def individual(self) -> dict[str, float] | None:
        """Return the primary value of each expert on its own task's whole test split, where their records say it."""
        asked = self.recipe.tasks
        if asked.limit is not None or asked.corruption is not None or asked.split != "test":
            return None
        found = {task: _recorded(self.pool.experts[name], task) for name, task in self.pool.tasks.items() if task}
        return {task: value for task, value in found.items() if value is not None} or None

    def family(self) -> str:
        """Return the name of the family that runs the models.

        Raises:
            ConfigError: where none serves them.
        """
        if self.pool.family != "auto":
            return self.pool.family
        kind = self.pool.reference.config.get("model_type")
        for name in families:
            if kind in (families[name].data or {}).get("model_types", ()):
                return name
        raise ConfigError(
            f"No family runs models of the type {kind!r}, so they cannot be evaluated. Use merge, or family=."
        )

    def identity(self) -> str:
        """Return what names the run; see `fusionbench.config.identity`."""
        entry = methods[self.recipe.method.name]
        versions = {f"method {entry.name}": entry.version}
        if self.tasks:
            name = self.family()
            versions[f"family {name}"] = families[name].version
            versions |= {f"task {task}": int(spec.get("version", 1)) for task, spec in self.tasks.items()}
        return identity(
            self.recipe,
            inputs=self.pool.fingerprints(),
            versions=versions,
            build=self.suite.build if self.suite is not None else None,
        )


def _recorded(expert: Source, task: str) -> float | None:
    """Return the primary test score that an expert's own record has for a task."""
    file = expert.folder / RECORD if expert.folder is not None else None
    if file is None or not file.is_file():
        return None
    scores = json.loads(file.read_text()).get("scores", {}).get(task, {}).get("test", {})
    return next((float(value) for value in scores.values()), None)


def resolve(recipe: Recipe, progress: Progress | None = None) -> Setting:
    """Open what a recipe speaks of; a suite that is built here is built where it is missing.

    Raises:
        FusionBenchError: where a suite, a model or a task is not there.
    """
    if recipe.slices is not None:
        raise ConfigError("slices: a run keeps the models' layers; stack them with: fusionbench merge -r RECIPE.")
    if recipe.suite is None:
        if recipe.tasks.seen or recipe.tasks.unseen:
            raise ConfigError("tasks: there is no suite to take them from. Add suite=NAME or suite=./mine.yaml.")
        return Setting(recipe, open_pool(recipe), None, {}, frozenset())
    if recipe.tasks.corruption is not None:
        raise ConfigError("tasks.corruption: corrupted inputs cannot be evaluated yet. Leave it out.")
    suite = load_suite(recipe.suite, progress=progress)
    known = suite.suite.tasks.tasks
    pool = _pool(recipe, suite)
    own = dict.fromkeys(task for task in pool.tasks.values() if task is not None)
    seen = _chosen(recipe.tasks.seen, tuple(own), known, "tasks.seen")
    unseen = _chosen(recipe.tasks.unseen, suite.suite.unseen, known, "tasks.unseen")
    tasks = {name: known[name] for name in (*seen, *(name for name in unseen if name not in seen))}
    return Setting(recipe, pool, suite, tasks, frozenset(seen), suite.notes)


def _pool(recipe: Recipe, suite: ResolvedSuite) -> Pool:
    """Return the suite's models, with what the recipe names beside it in their place."""
    if recipe.space == "adapter":
        raise ConfigError("space=adapter gives an adapter, which no suite evaluates yet. Use merge, or space=dense.")
    models = suite.suite.pool
    known = suite.suite.tasks.tasks
    given = models.model_dump()
    if recipe.base is not None:
        given["base"] = recipe.base
    if recipe.experts:
        given["experts"] = {name: expert.model_dump() for name, expert in recipe.experts.items()}
    if recipe.family != "auto":
        given["family"] = recipe.family
    merged = type(models).read(given, "The recipe's models")
    opened = open_models(merged)
    tasks = {name: merged.task_of(name, known) for name in merged.experts}
    opened = replace(opened, tasks=tasks, tower=tower_of(opened.reference.config, merged.family))
    return with_statistics(opened, recipe.method)


def _chosen(
    asked: tuple[str, ...] | None, default: tuple[str, ...], known: Mapping[str, Any], key: str
) -> tuple[str, ...]:
    for name in asked or ():
        if name not in known:
            raise ConfigError(f"{key}: there is no task {name!r}. {suggestion(name, list(known))}")
    return default if asked is None else asked


def setting_of_suite(suite: SuiteConfig, tasks: TasksConfig, progress: Progress | None = None) -> Setting:
    """Return the setting in which a model is scored on a suite: that of its pretrained row."""
    document = {"suite": suite.model_dump(), "tasks": tasks.model_dump(), "method": "pretrained"}
    return resolve(Recipe.read(document, "The evaluation"), progress)
