"""Fuse models from Python: one call, or a configured algorithm that can be kept as YAML.

The command line runs the same code, so both give the same bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fusionbench.config import MethodConfig, parse_document
from fusionbench.config.method import complete
from fusionbench.errors import ConfigError
from fusionbench.merge import Pool, plan_of, tower_of
from fusionbench.registry import Entry, methods
from fusionbench.weights.adapters import AdaptedSource, is_adapter, open_adapter, open_experts
from fusionbench.weights.engine import run_plan
from fusionbench.weights.headers import Source
from fusionbench.weights.sources import open_source

if TYPE_CHECKING:
    from torch import Tensor

    from fusionbench.mixing.fused import Fused


@dataclass(frozen=True)
class Algorithm:
    """A method with all its parameters, ready to be called on a pool of models.

    This is what the papers call a ModelFusionAlgorithm (arXiv:2406.03280, §3.1). Two are equal where their method, seed
    and parameters are, and `from_yaml(to_yaml())` gives an equal one.
    """

    method: MethodConfig
    seed: int = 0
    batch_norm: str = "average"

    @property
    def entry(self) -> Entry:
        """What is known of the method."""
        return methods[self.method.name]

    @property
    def category(self) -> str:
        """Ensemble, merge or mix."""
        return self.entry.category

    @property
    def requirement(self) -> tuple[str, ...]:
        """What it needs beside the experts, such as base, unlabelled, labelled, validation or training_after."""
        base = ("base",) if self.entry.kind == "stream" and self.entry.base == "required" else ()
        return (*base, *self.entry.needs)

    def __call__(self, pool: Any) -> "Fused":
        """Return the fused model of a pool.

        Args:
            pool: the name or file of a suite, a ModelPool, or a mapping of names to folders, hub ids, state dicts or
                live modules, in which "base" is the pretrained model and every other name an expert.

        Raises:
            FusionBenchError: where models are missing or do not fit.
        """
        from fusionbench.mixing.build import fused_reference, fused_weights

        opened = open_models(pool)
        if self.entry.kind == "reference":
            return fused_reference(self.method.name, opened)
        return fused_weights(merge_in_memory(self, opened), opened)

    def to_yaml(self) -> str:
        """Return the algorithm as YAML."""
        document = {"method": self.method.model_dump(mode="json"), "seed": self.seed, "batch_norm": self.batch_norm}
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str) -> "Algorithm":
        """Read what `to_yaml` wrote.

        Raises:
            ConfigError: naming every wrong key and value.
        """
        document = dict(parse_document(text, "The algorithm"))
        unknown = sorted({*document} - {"method", "seed", "batch_norm"})
        if unknown or "method" not in document:
            raise ConfigError(f"An algorithm has the keys method, seed and batch_norm; got {', '.join(document)}.")
        return cls(
            MethodConfig.model_construct(**complete(document["method"])),
            int(document.get("seed", 0)),
            str(document.get("batch_norm", "average")),
        )


def configure(
    name: str, *, compat: str | None = None, seed: int = 0, batch_norm: str = "average", **parameters: Any
) -> Algorithm:
    """Return the method called `name` with these parameters, the others at their defaults.

    Args:
        name: of a registered method, or of a preset such as `ties/fusion_bench`.
        compat: whose arithmetic, where implementations differ.
        seed: of every random choice.
        batch_norm: what becomes of running means and variances.
        **parameters: the method's own.

    Raises:
        ConfigError: naming every wrong parameter at once.
    """
    return Algorithm(
        MethodConfig.model_construct(**complete({"name": name, "compat": compat, **parameters})), seed, batch_norm
    )


def fuse(
    name: str, pool: Any, *, compat: str | None = None, seed: int = 0, batch_norm: str = "average", **parameters: Any
) -> "Fused":
    """Return the fused model of a pool: `fusionbench.fuse("ties", "mini/clip", scale=1.0)`.

    Args:
        name: of a registered method, or of a preset such as `ties/fusion_bench`.
        pool: see `Algorithm.__call__`.
        compat: whose arithmetic, where implementations differ.
        seed: of every random choice.
        batch_norm: what becomes of running means and variances.
        **parameters: the method's own.

    Raises:
        FusionBenchError: for every mistake of the user.
    """
    return configure(name, compat=compat, seed=seed, batch_norm=batch_norm, **parameters)(pool)


def open_models(pool: Any) -> Pool:
    """Open what a user calls a pool; see `Algorithm.__call__`."""
    from fusionbench.suites.model import ModelPool

    if isinstance(pool, Pool):
        return pool
    if isinstance(pool, Mapping):
        return _open_mapping(pool)
    if not isinstance(pool, ModelPool):
        from fusionbench.suites.load import load_suite

        resolved = load_suite(pool)
        known = resolved.suite.tasks.tasks
        tasks = {name: resolved.suite.pool.task_of(name, known) for name in resolved.suite.pool.experts}
        return replace(open_models(resolved.suite.pool), tasks=tasks)
    base, experts = open_experts(pool.base, pool.experts)
    mtl = _open_one("mtl", pool.mtl, base) if pool.mtl is not None else None
    opened = Pool(base, experts, mtl=mtl, tasks={name: expert.task or name for name, expert in pool.experts.items()})
    return replace(opened, tower=tower_of(opened.reference.config, pool.family), family=pool.family)


def _open_mapping(models: Mapping[str, Any]) -> Pool:
    if not models or set(models) == {"base"}:
        raise ConfigError('A pool is a mapping such as {"base": model, "math": model, "code": model}.')
    base = _open_one("base", models["base"]) if "base" in models else None
    opened = {name: _open_one(name, model, base) for name, model in models.items() if name != "base"}
    if base is None:
        base = next((source.base for source in opened.values() if isinstance(source, AdaptedSource)), None)
    pool = Pool(base, opened, tasks={name: name for name in opened})
    return replace(pool, tower=tower_of(pool.reference.config))


def _open_one(name: str, model: Any, base: Source | None = None) -> Source:
    if isinstance(model, str | Path):
        return open_adapter(model, base) if is_adapter(model) else open_source(model)
    if hasattr(model, "specs") and hasattr(model, "read"):
        source: Source = model
        return source
    from fusionbench.weights.tensors import TensorSource

    return TensorSource(name, model)


def merge_in_memory(algorithm: Algorithm, pool: Pool) -> "dict[str, Tensor]":
    """Return the merged tensors of a stream method by canonical name, in the base's kinds of number."""
    from fusionbench.weights.tensors import MemorySink

    plan = plan_of(pool, algorithm.method, seed=algorithm.seed, batch_norm=algorithm.batch_norm)
    sink = MemorySink([step.output for step in plan])
    run_plan(plan, algorithm.entry, sink, values=algorithm.method.params)
    return sink.weights
