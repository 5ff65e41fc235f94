"""From a recipe to what it speaks of: opened models, the tasks to score, and what names the run. No torch here."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fusionbench.config import Recipe, SuiteConfig, TasksConfig, identity
from fusionbench.config.corruptions import VERSION as CORRUPTIONS_VERSION
from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.merge import Pool, Progress, open_pool, with_statistics
from fusionbench.registry import families, family_serving, methods, suggestion
from fusionbench.registry import tasks as task_kinds
from fusionbench.suites.load import load_suite
from fusionbench.suites.model import ModelPool, ResolvedSuite, Suite, TaskPool
from fusionbench.suites.opening import open_models, open_suite
from fusionbench.suites.paper import check_origins
from fusionbench.weights.adapters import AdaptedSource, is_adapter, open_adapter_tensors
from fusionbench.weights.companions import RECORD
from fusionbench.weights.headers import Source
from fusionbench.weights.roles import is_statistic
from fusionbench.weights.sources import open_source

INDIVIDUAL = "individual"
"""What the experts' own scores are called among a report's inputs."""
HEAD = "head "
"""What the name of a head among a report's inputs begins with; its task follows."""
LEARNED = ("adapters", "coefficients", "gates", "logits", "routers")
"""Parameters of methods that say where lies what an earlier run learned."""


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
        recorded: by task, what the record of its own expert says of the whole test split, by metric.
        adapters: with space=adapter, what is merged: the experts' adapters by themselves; `pool` then holds the models
            that they make of the base.
        heads: by task, where its head is read from, as far as it is a trained one.
    """

    recipe: Recipe
    pool: Pool
    suite: ResolvedSuite | None
    tasks: Mapping[str, Mapping[str, Any]]
    seen: frozenset[str]
    notes: tuple[str, ...] = ()
    recorded: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    adapters: Pool | None = None
    heads: Mapping[str, str] = field(default_factory=dict)

    def inputs(self) -> dict[str, str]:
        """Return a digest of all that goes into the numbers of the report, by name."""
        found = self.pool.fingerprints()
        if self.recorded:
            text = json.dumps(self.recorded, sort_keys=True).encode()
            found[INDIVIDUAL] = f"sha256:{hashlib.sha256(text).hexdigest()}"
        if self.suite is not None:
            models = self.suite.suite.pool
            here = {models.base, *(ref for expert in models.experts.values() for ref in (expert.model, expert.adapter))}
            found |= _digests({task: head for task, head in self.heads.items() if head not in here})
        return found | _digests_of_learned(self.recipe.method.params, "method")

    def inputs_of_scoring(self) -> dict[str, str]:
        """Return a digest of all but the scored model that goes into its scores, by name."""
        kept = {name: digest for name, digest in self.inputs().items() if name in ("base", INDIVIDUAL)}
        return kept | _digests(self.heads)

    def family(self) -> str:
        """Return the name of the family that runs the models.

        Raises:
            ConfigError: where none serves them.
        """
        config = self.pool.reference.config
        if (entry := family_serving(config, self.pool.family)) is not None:
            return entry.name
        raise ConfigError(
            f"No family runs models of the type {config.get('model_type')!r}, so they cannot be evaluated. Use merge, "
            "or family=."
        )

    def identity(self, inputs: Mapping[str, str] | None = None) -> str:
        """Return what names the run, or the scoring of other inputs; see `fusionbench.config.identity`."""
        entry = methods[self.recipe.method.name]
        versions = {f"method {entry.name}": entry.version}
        if self.tasks:
            name = self.family()
            versions[f"family {name}"] = families[name].version
            versions |= {f"task {task}": int(spec.get("version", 1)) for task, spec in self.tasks.items()}
            kinds = {kind: task_kinds[kind].version for kind in map(_kind, self.tasks.values())}
            # A first version goes without saying: the names of earlier runs stay.
            versions |= {f"kind {kind}": version for kind, version in kinds.items() if version > 1}
            if self.recipe.tasks.corruption is not None:
                versions["corruptions"] = CORRUPTIONS_VERSION
        return identity(
            self.recipe,
            inputs=self.inputs() if inputs is None else inputs,
            versions=versions,
            build=self.suite.build if self.suite is not None else None,
        )


def _kind(spec: Mapping[str, Any]) -> str:
    """Return the kind of a task that is described, which is of images where it says none."""
    return str(spec.get("kind", "image"))


def _digests(heads: Mapping[str, str]) -> dict[str, str]:
    return {
        f"{HEAD}{task}": (open_adapter_tensors(head) if is_adapter(head) else open_source(head)).fingerprint()
        for task, head in heads.items()
    }


def _digests_of_learned(params: Mapping[str, Any], path: str) -> dict[str, str]:
    """Return a digest of each file that a method or its inner one takes over; of what is missing the method tells."""
    found: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            found |= _digests_of_learned(value, f"{path}.{name}")
        elif name in LEARNED and isinstance(value, str) and Path(value).expanduser().exists():
            found[f"{path}.{name}"] = open_source(value).fingerprint()
    return found


def recorded_scores(pool: Pool, tasks: TasksConfig, wanted: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return, by wanted task, the scores that its own expert's record has for the whole test split, by metric.

    There are none where something else than the whole, clean test split is asked for.

    Raises:
        CheckpointError: where a record is damaged.
    """
    if tasks.limit is not None or tasks.corruption is not None or tasks.split != "test":
        return {}
    own = {task: pool.experts[name] for name, task in pool.tasks.items() if task is not None and task in wanted}
    found = {task: _recorded(expert, task) for task, expert in own.items()}
    return {task: scores for task, scores in found.items() if scores}


def _recorded(expert: Source, task: str) -> dict[str, float]:
    folder = expert.adapter_config.folder if isinstance(expert, AdaptedSource) else expert.folder
    file = folder / RECORD if folder is not None else None
    if file is None or not file.is_file():
        return {}
    try:
        scores = json.loads(file.read_text(encoding="utf-8")).get("scores", {}).get(task, {}).get("test", {})
        values = {str(metric): float(value) for metric, value in scores.items() if value is not None}
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is damaged: {error}. It holds the scores of {expert.label}, to which results are compared. Make "
            "the model again, or remove that file; the report then has no normalised score."
        ) from None
    return {metric: value for metric, value in values.items() if math.isfinite(value)}


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
        pool = open_pool(recipe)
        check_batch_norm(pool, recipe.method.name, recipe.batch_norm)
        return Setting(recipe, pool, None, {}, frozenset())
    suite = _corrupted(recipe, load_suite(recipe.suite, progress=progress))
    check_origins(suite.suite)
    known = suite.suite.tasks.tasks
    suite = replace(suite, suite=suite.suite.with_models(_models(recipe, suite.suite.pool)))
    pool = _pool(recipe, suite.suite)
    own = dict.fromkeys(task for task in pool.tasks.values() if task is not None)
    seen = _chosen(recipe.tasks.seen, tuple(own), known, "tasks.seen")
    unseen = _chosen(recipe.tasks.unseen, suite.suite.unseen, known, "tasks.unseen")
    tasks = {name: known[name] for name in (*seen, *(name for name in unseen if name not in seen))}
    check_batch_norm(pool, recipe.method.name, recipe.batch_norm)
    recorded = recorded_scores(pool, recipe.tasks, seen)
    adapters = _adapters(recipe, suite.suite.pool)
    heads = _heads(suite.suite.pool, tasks, pool)
    return Setting(recipe, pool, suite, tasks, frozenset(seen), suite.notes, recorded, adapters, heads)


def _heads(models: ModelPool, tasks: Mapping[str, Mapping[str, Any]], pool: Pool) -> dict[str, str]:
    """Return where the trained heads of tasks are: what a task or its expert names, else its expert."""
    entry = family_serving(pool.reference.config, pool.family)
    trained = entry is not None and bool((entry.data or {}).get("head"))
    found = {}
    for name, task in pool.tasks.items():
        if task is not None and task in tasks and task not in found:
            expert = models.experts[name]
            found[task] = expert.head or ((expert.adapter or expert.model) if trained else None)
    found |= {task: spec["head"] for task, spec in tasks.items() if spec.get("head")}
    return {task: head for task, head in found.items() if head is not None}


def _corrupted(recipe: Recipe, suite: ResolvedSuite) -> ResolvedSuite:
    """Return a suite whose tasks look at corrupted images, and say so, where the recipe asks for them."""
    tasks = recipe.tasks
    if tasks.corruption is None:
        return suite
    change = {"name": tasks.corruption, "severity": tasks.severity, "seed": suite.seed or 0}
    known = {name: {**spec, "corruption": change} for name, spec in suite.suite.tasks.tasks.items()}
    changed = suite.suite.model_copy(update={"tasks": TaskPool(tasks=known)})
    looked_at = (*suite.suite.seen, *suite.suite.unseen)
    ready = [name for name in looked_at if tasks.corruption in known[name].get("corrupted_splits", {})]
    source = f"; as published for {', '.join(ready)}, where only the test images are" if ready else ""
    note = f"all images but those of training are corrupted: {tasks.corruption}, severity {tasks.severity}{source}"
    return replace(suite, suite=changed, notes=(*suite.notes, note))


def _models(recipe: Recipe, models: ModelPool) -> ModelPool:
    """Return a suite's models, with what the recipe names beside it in their place."""
    given = models.model_dump()
    if recipe.base is not None:
        given["base"] = recipe.base
    if recipe.experts:
        given["experts"] = {name: expert.model_dump() for name, expert in recipe.experts.items()}
    if recipe.family != "auto":
        given["family"] = recipe.family
    return ModelPool.read(given, "The recipe's models")


def _pool(recipe: Recipe, suite: Suite) -> Pool:
    # A default is no choice: (IA)³ asks for one.
    space: Literal["dense"] | None = "dense" if "space" in recipe.model_fields_set else None
    return with_statistics(open_suite(suite, space), recipe.method)


def _adapters(recipe: Recipe, models: ModelPool) -> Pool | None:
    """Return the experts' adapters by themselves, where these are merged.

    Raises:
        ConfigError: where the method needs more than their numbers, or the merged adapter is not kept.
    """
    entry = methods[recipe.method.name]
    if recipe.space != "adapter" or entry.kind == "reference":
        return None
    data = entry.data or {}
    # What is collected of linear maps alone has nothing to say of vectors: these are averaged.
    if entry.kind != "stream" or (entry.needs and "linears" not in data.get("parts", ())):
        raise ConfigError(
            f"space=adapter: {entry.name} looks at models and data, and an adapter alone is no model. "
            "Use space=dense, or a method that merges tensor by tensor, such as ties."
        )
    if not recipe.output.model:
        raise ConfigError(
            "space=adapter: the merged adapter has to be written to be put on the base: output.model=true."
        )
    return open_models(models, "adapter")


def _chosen(
    asked: tuple[str, ...] | None, default: tuple[str, ...], known: Mapping[str, Any], key: str
) -> tuple[str, ...]:
    for name in asked or ():
        if name not in known:
            raise ConfigError(f"{key}: there is no task {name!r}. {suggestion(name, list(known))}")
    return default if asked is None else asked


def check_batch_norm(pool: Pool, method: str, policy: str) -> None:
    """Refuse a policy for BatchNorm statistics that a method would not follow.

    Methods that work on whole modules take the experts' statistics together, as `average` does: what they learn or
    rebuild is fitted to these.

    Raises:
        ConfigError: naming the method and a statistic of its models.
    """
    if policy in ("average", "recalibrate") or methods[method].kind in ("reference", "stream"):
        return
    held = next((name for name in pool.reference.specs if is_statistic(name)), None)
    if held is not None:
        raise ConfigError(
            f"batch_norm={policy}: {method} works on whole modules, whose statistics ({held} …) it averages over the "
            f"experts. Choose batch_norm=average, or a method that merges tensor by tensor, such as task_arithmetic."
        )


def setting_of_suite(suite: SuiteConfig, tasks: TasksConfig, progress: Progress | None = None) -> Setting:
    """Return the setting in which a model is scored on a suite: that of its pretrained row."""
    document = {"suite": suite.model_dump(), "tasks": tasks.model_dump(), "method": "pretrained", "space": "dense"}
    return resolve(Recipe.read(document, "The evaluation"), progress)
