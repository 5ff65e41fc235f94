"""From what a user calls a pool to opened models: a suite, references, or models in memory. No torch before those."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusionbench.errors import ConfigError
from fusionbench.merge import Pool, tower_of
from fusionbench.registry import families
from fusionbench.suites.load import load_suite
from fusionbench.suites.model import ModelPool, Suite
from fusionbench.suites.paper import check_origins
from fusionbench.weights.adapters import AdaptedSource, Space, is_adapter, open_adapter, open_experts
from fusionbench.weights.headers import Source
from fusionbench.weights.sources import open_source
from fusionbench.weights.vocabulary_files import share_vocabulary


def open_models(pool: Any, space: Space | None = None) -> Pool:
    """Open what a user calls a pool.

    Args:
        pool: a suite (its name, file, description or itself), a ModelPool, opened models, or a mapping of names to
            folders, hub ids, state dicts or live modules, in which "base" is the pretrained model and every other name
            an expert.
        space: in which experts are merged that are adapters, see `open_adapter`; of a suite or a ModelPool.

    Raises:
        FusionBenchError: where models are missing or do not fit.
    """
    if isinstance(pool, Pool):
        return pool
    if isinstance(pool, Mapping):
        return _open_mapping(pool)
    if is_suite(pool):
        suite = load_suite(pool).suite
        check_origins(suite)
        return open_suite(suite, space)
    base, experts = open_experts(pool.base, pool.experts, space)
    if base is not None and pool.family != "auto":
        _say_kind(base, pool.family)
    shared = None
    if pool.vocabulary is not None:
        base, experts, shared = share_vocabulary(base, experts, pool.vocabulary)
    # No expert: of adapters by themselves there is no model of all tasks.
    mtl = None if pool.mtl is None or space == "adapter" else _open_one("mtl", pool.mtl, base, "dense")
    tasks = {name: expert.task or name for name, expert in pool.experts.items()}
    opened = Pool(base, experts, mtl=mtl, tasks=tasks, vocabulary=shared)
    tower = "" if space == "adapter" else tower_of(opened.reference, pool.family)
    return replace(opened, tower=tower, family=pool.family)


def open_suite(suite: Suite, space: Space | None = None) -> Pool:
    """Open a suite's models, each with the task that the suite gives it; see `open_models`."""
    tasks = {name: suite.pool.task_of(name, suite.tasks.tasks) for name in suite.pool.experts}
    return replace(open_models(suite.pool, space), tasks=tasks)


def _say_kind(base: Source, family: str) -> None:
    """Let a configuration name its model_type where it names none, as timm's do not, and a suite names the family."""
    kinds = (families[family].data or {}).get("model_types", ())
    if kinds and not base.config.get("model_type"):
        vars(base)["config"] = {**base.config, "model_type": kinds[0]}


def is_suite(pool: Any) -> bool:
    """Tell whether what a user calls a pool is, or names, a suite."""
    return not isinstance(pool, Pool | ModelPool | Mapping)


def _open_mapping(models: Mapping[str, Any]) -> Pool:
    if not models or set(models) == {"base"}:
        raise ConfigError('A pool is a mapping such as {"base": model, "math": model, "code": model}.')
    base = _open_one("base", models["base"]) if "base" in models else None
    opened = {name: _open_one(name, model, base) for name, model in models.items() if name != "base"}
    if base is None:
        base = next((source.base for source in opened.values() if isinstance(source, AdaptedSource)), None)
    pool = Pool(base, opened, tasks={name: name for name in opened})
    return replace(pool, tower=tower_of(pool.reference))


def _open_one(name: str, model: Any, base: Source | None = None, space: Space | None = None) -> Source:
    if isinstance(model, str | Path):
        return open_adapter(model, base, space) if is_adapter(model) else open_source(model)
    if hasattr(model, "specs") and hasattr(model, "read"):
        source: Source = model
        return source
    from fusionbench.weights.tensors import TensorSource

    return TensorSource(name, model)
