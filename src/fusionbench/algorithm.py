"""Fuse models from Python: one call, or a configured algorithm that can be kept as YAML.

The command line runs the same code, so both give the same bits.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from fusionbench.compat import under_our_name
from fusionbench.config import Config, MethodConfig, RuntimeConfig, parse_document
from fusionbench.config.fields import Seed
from fusionbench.config.method import over_suite_defaults
from fusionbench.config.recipe import BatchNorm
from fusionbench.errors import ConfigError
from fusionbench.merge import Pool, plan_of, run_recipe_plan, with_statistics
from fusionbench.registry import Entry, methods
from fusionbench.suites.load import load_suite
from fusionbench.suites.model import ModelPool, Suite, TaskPool
from fusionbench.suites.opening import is_suite, open_models

if TYPE_CHECKING:
    from torch import Tensor

    from fusionbench.mixing.fused import Fused
    from fusionbench.tasks import Task


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Algorithm:
    """A method with all its parameters, ready to be called on a pool of models.

    This is what the papers call a ModelFusionAlgorithm (arXiv:2406.03280, §3.1). Two are equal where their method, seed
    and parameters are, and `from_yaml(to_yaml())` gives an equal one.
    """

    method: MethodConfig
    seed: int = 0
    batch_norm: BatchNorm = "average"

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
        base = ("base",) if self.entry.kind in ("stream", "rebuild") and self.entry.base == "required" else ()
        return (*base, *self.entry.needs)

    def __call__(
        self, pool: Any, tasks: Any = None, *, folder: Path | None = None, runtime: RuntimeConfig | None = None
    ) -> "Fused":
        """Return the fused model of a pool.

        Args:
            pool: the name or file of a suite, a suite, a ModelPool, or a mapping of names to folders, hub ids, state
                dicts or live modules, in which "base" is the pretrained model and every other name an expert.
            tasks: what a method looks at that looks at data, where the pool is no suite: a TaskPool, its description,
                or tasks by name. An expert's task is the one it names, else the one of its own name.
            folder: keeps artefacts and checkpoints, from which an equal call goes on; None keeps nothing.
            runtime: device, threads and memory.

        Raises:
            FusionBenchError: where models are missing or do not fit, or the method lacks data.
        """
        with _folder_for(folder) as place:
            return self._fused(pool, tasks, place, runtime or RuntimeConfig())

    def _fused(self, pool: Any, tasks: Any, folder: Path, runtime: RuntimeConfig) -> "Fused":
        from fusionbench.mixing.assemble import in_memory, with_config
        from fusionbench.mixing.build import fused_reference
        from fusionbench.run.setting import check_batch_norm
        from fusionbench.run.whole import Bench, fuse_whole, with_collected
        from fusionbench.weights.devices import device_named

        opened, task_pool = _opened(pool, tasks)
        method, entry, device = self.method, self.entry, device_named(runtime.device)
        if self.batch_norm == "recalibrate" and entry.kind != "reference":
            raise ConfigError("batch_norm=recalibrate belongs to a run: fusionbench run. Choose batch_norm=average.")
        check_batch_norm(opened, entry.name, self.batch_norm)
        if entry.kind == "reference":
            return fused_reference(entry.name, opened, device)
        if entry.kind == "rebuild":
            return in_memory(opened, entry, method.params, seed=self.seed, device=device)
        opened = with_statistics(opened, method)
        bench = Bench(opened, method, self.seed, runtime, lambda: _own_tasks(task_pool, opened), folder)
        if entry.kind == "whole":
            return fuse_whole(bench)[0]
        tensors, config = merge_in_memory(self, with_collected(bench)[0].pool, runtime)
        return with_config(entry.name, tensors, config, opened, device)

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
        read = _Written.read(parse_document(text, "The algorithm"), "The algorithm")
        return cls(read.method, read.seed, read.batch_norm)


class _Written(Config):
    """An algorithm as YAML has it."""

    method: MethodConfig
    seed: Seed = 0
    batch_norm: BatchNorm = "average"


def configure(
    name: str, *, compat: str | None = None, seed: int = 0, batch_norm: str = "average", **parameters: Any
) -> Algorithm:
    """Return the method called `name` with these parameters, the others at their defaults.

    Args:
        name: of a registered method, ours or mergekit's, or of a preset such as `ties/fusion_bench`.
        compat: whose arithmetic, where implementations differ.
        seed: of every random choice.
        batch_norm: what becomes of running means and variances.
        **parameters: the method's own.

    Raises:
        ConfigError: naming every wrong parameter at once.
    """
    method, notes = under_our_name({"name": name, "compat": compat, **parameters})
    for line in notes:
        logger.info(line)
    read = _Written.read({"method": method, "seed": seed, "batch_norm": batch_norm}, "The algorithm")
    return Algorithm(read.method, read.seed, read.batch_norm)


def fuse(
    name: str,
    pool: Any,
    tasks: Any = None,
    *,
    compat: str | None = None,
    seed: int = 0,
    batch_norm: str = "average",
    folder: Path | None = None,
    runtime: RuntimeConfig | None = None,
    **parameters: Any,
) -> "Fused":
    """Return the fused model of a pool: `fusionbench.fuse("ties", "mini/clip", scale=1.0)`.

    Args:
        name: of a registered method, ours or mergekit's, or of a preset such as `ties/fusion_bench`.
        pool: see `Algorithm.__call__`; a suite's defaults for the method count, as on the command line.
        tasks: see `Algorithm.__call__`.
        compat: whose arithmetic, where implementations differ.
        seed: of every random choice.
        batch_norm: what becomes of running means and variances.
        folder: see `Algorithm.__call__`.
        runtime: device, threads and memory.
        **parameters: the method's own.

    Raises:
        FusionBenchError: for every mistake of the user.
    """
    if is_suite(pool):
        pool = load_suite(pool).suite
        typed, _ = under_our_name({"name": name, "compat": compat, **parameters})
        layered = over_suite_defaults(typed, pool.method_defaults)
        name, compat = typed["name"], layered.get("compat", compat)
        parameters = {key: value for key, value in layered.items() if key not in ("name", "compat")}
    return configure(name, compat=compat, seed=seed, batch_norm=batch_norm, **parameters)(
        pool, tasks, folder=folder, runtime=runtime
    )


@contextmanager
def _folder_for(folder: Path | None) -> Iterator[Path]:
    """Yield the folder that was named, or one that is removed at the end."""
    if folder is not None:
        yield Path(folder)
        return
    with TemporaryDirectory(prefix="fusionbench-") as made:
        yield Path(made)


def load_fused(
    model: str | Path, pool: Any, *, runtime: RuntimeConfig | None = None, preference: Sequence[float] | None = None
) -> "Fused":
    """Return a saved fused model of any form, which predicts the same bits as before it was saved.

    Args:
        model: a folder, a file or a hub id: what `save` of a fused model wrote, or a plain checkpoint.
        pool: what it was fused of, or a suite, as an `Algorithm` takes it; its base is what masks are put on.
        runtime: the device.
        preference: of a model of pwe_moe, one weight an expert: the plain model that it is merged to for them.

    Raises:
        FusionBenchError: where there is no model, it is damaged, or does not fit the pool.
    """
    from fusionbench.run.opening import open_fused
    from fusionbench.weights.devices import device_named

    device = device_named((runtime or RuntimeConfig()).device)
    return open_fused(model, open_models(pool), device, preference=preference).fused


def _opened(pool: Any, tasks: Any) -> tuple[Pool, Any]:
    """Return the opened models, and the tasks that belong to them: a suite's where none are named."""
    if not is_suite(pool):
        return open_models(pool), tasks
    suite = load_suite(pool).suite
    return open_models(suite), suite.tasks if tasks is None else tasks


def _own_tasks(tasks: Any, pool: Pool) -> "Mapping[str, Task]":
    """Return the tasks that the experts were trained on, ready to run; none where there are none."""
    from fusionbench.run.whole import own_tasks
    from fusionbench.tasks import Task

    if tasks is None:
        return {}
    if isinstance(tasks, Mapping) and tasks and all(isinstance(task, Task) for task in tasks.values()):
        return {task: tasks[task] for task in dict.fromkeys(pool.tasks.values()) if task is not None and task in tasks}
    known = tasks if isinstance(tasks, TaskPool) else TaskPool.read(tasks, "The tasks")
    # The models are open already: of the suite only its tasks are looked at.
    experts = {name: {"model": source.label} for name, source in pool.experts.items()}
    models = ModelPool.read({"experts": experts, "family": pool.family}, "The models")
    own = {name: task if task in known.tasks else None for name, task in pool.tasks.items()}
    return own_tasks(Suite(name="the given tasks", pool=models, tasks=known), replace(pool, tasks=own))


def merge_in_memory(
    algorithm: Algorithm, pool: Pool, runtime: RuntimeConfig | None = None
) -> "tuple[dict[str, Tensor], Mapping[str, Any]]":
    """Return the merged tensors of a stream method by canonical name, and their configuration if it is another."""
    from fusionbench.weights.tensors import MemorySink

    plan = plan_of(pool, algorithm.method, seed=algorithm.seed, batch_norm=algorithm.batch_norm)
    sink = MemorySink([step.output for step in plan])
    run_recipe_plan(plan, algorithm.method, runtime or RuntimeConfig(), sink)
    return sink.weights, {**pool.reference.config, **plan.config} if plan.config else {}
