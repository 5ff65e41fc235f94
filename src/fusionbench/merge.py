"""Merge checkpoints by a recipe: open, check, plan, run, write. Torch is imported only where a method needs it."""

import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fusionbench.config import MethodConfig, Recipe, SliceConfig, identity
from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.registry import Entry, families, load_attribute, methods
from fusionbench.weights.adapters import AdapterBase, open_experts
from fusionbench.weights.checks import fit
from fusionbench.weights.engine import run_plan, total_entries
from fusionbench.weights.headers import ITEM_BYTES, WORDS, Source
from fusionbench.weights.plan import Plan, build_plan
from fusionbench.weights.slices import plan_slices
from fusionbench.weights.sources import open_source
from fusionbench.weights.tokens import vocabulary_notes
from fusionbench.weights.writer import CheckpointWriter

COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
NOT_COPIED = ("*.index.json", "trainer_state.json", "training_args.json", "adapter_config.json", "fusionbench.json")
STATISTICS = "statistics"
"""The parameter of methods that look at data before the merge: a folder of what an earlier run saw."""
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The opened models of a recipe: references, headers, and what part of them is fused."""

    base: Source | None
    experts: Mapping[str, Source]
    tower: str = ""
    family: str = "auto"
    mtl: Source | None = None
    tasks: Mapping[str, str | None] = field(default_factory=dict)
    """The task that each expert was trained on, where one is known."""
    statistics: Mapping[str, Source] = field(default_factory=dict)
    """What was collected of each expert's data, for methods that weigh by it."""

    @property
    def reference(self) -> Source:
        """The checkpoint whose names, kinds and other files the output takes: the base, or the first expert."""
        return self.base if self.base is not None else next(iter(self.experts.values()))

    def fingerprints(self) -> dict[str, str]:
        """Return a digest of each model by name."""
        named = {**({"base": self.base} if self.base is not None else {}), **self.experts}
        named |= {f"statistics/{name}": source for name, source in self.statistics.items()}
        return {name: source.fingerprint() for name, source in named.items()}


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did."""

    folder: Path
    parameters: int
    bytes: int
    passes: int
    notes: tuple[str, ...]
    inputs: Mapping[str, str] = field(default_factory=dict)


def open_pool(recipe: Recipe) -> Pool:
    """Open the base and the experts that a recipe names; headers are checked, tensors are not read.

    Raises:
        CheckpointError: where a model is missing or damaged.
        ConfigError: where the recipe names no expert.
    """
    if not recipe.experts:
        raise ConfigError(
            "There are no experts: name them with experts.NAME=REF, or fuse a suite's models with: fusionbench run."
        )
    # A default is no choice: (IA)³ asks for one.
    space = recipe.space if "space" in recipe.model_fields_set else None
    pool = Pool(*open_experts(recipe.base, recipe.experts, space), family=recipe.family)
    tower = "" if space == "adapter" else tower_of(pool.reference.config, recipe.family)
    return with_statistics(replace(pool, tower=tower), recipe.method)


def with_statistics(pool: Pool, method: MethodConfig) -> Pool:
    """Return the pool with the stored statistics that a method names, if it names any.

    Raises:
        CheckpointError: where an expert's are missing.
        ConfigError: where they were collected for another method, or of another model.
    """
    folder = method.params.get(STATISTICS)
    if not isinstance(folder, str):
        return pool
    return replace(pool, statistics={name: _statistics(Path(folder), name, pool, method.name) for name in pool.experts})


def _statistics(folder: Path, name: str, pool: Pool, method: str) -> Source:
    if not (folder / name).is_dir():
        raise CheckpointError(
            f"method.{STATISTICS}={folder} has none of the expert {name!r}: no folder {folder / name}. "
            "Give the folder that holds one a expert, such as <run>/artefacts/statistics."
        )
    source = open_source(folder / name)
    text = getattr(source, "metadata", {})
    expected = {"method": method, "model": pool.experts[name].fingerprint()}
    for key, value in expected.items():
        if text.get(key) != value:
            raise ConfigError(
                f"{folder / name} was collected for the {key} {text.get(key, 'unknown')}, here it is {value}. "
                f"Leave method.{STATISTICS} out to collect anew."
            )
    return source


def tower_of(config: Mapping[str, Any], family: str = "auto") -> str:
    """Return the prefix of what is fused of a model: its family's tower, or "" for all."""
    for name in families if family == "auto" else (family,):
        data = families[name].data or {}
        if family != "auto" or config.get("model_type") in data.get("model_types", ()):
            return str(data.get("tower", ""))
    return ""


def plan_of(
    pool: Pool, method: MethodConfig, *, seed: int = 0, batch_norm: str = "average", dtype: str = "base"
) -> Plan:
    """Return the plan of a stream method on opened models.

    Raises:
        ConfigError: where the method is of another kind, or needs a base that is not there.
        IncompatibleModels: with every difference between the models.
    """
    entry = methods[method.name]
    if entry.kind != "stream":
        raise ConfigError(f"{entry.name} does not merge tensor by tensor; use it with: fusionbench run.")
    if pool.base is None and entry.base == "required":
        raise ConfigError(f"{entry.name} works on deltas to a base model: name one with base=REF.")
    if STATISTICS in method.params and not pool.statistics:
        pool = with_statistics(pool, method)
        if not pool.statistics:
            raise ConfigError(
                f"{entry.name} weighs by statistics of each expert's data. Collect them with: fusionbench run suite=…; "
                f"or name those of an earlier run: method.{STATISTICS}=RUN/artefacts/statistics."
            )
    return build_plan(
        pool.base,
        pool.experts,
        fit(pool.reference, pool.experts, tower=pool.tower),
        method=entry.name,
        parameters=entry.parameters,
        values=method.params,
        seed=seed,
        dtype=dtype if dtype == "base" else WORDS[dtype],
        batch_norm=batch_norm,
        statistics=pool.statistics,
    )


def plan_of_recipe(recipe: Recipe, pool: Pool) -> Plan:
    """Return the plan of a recipe on its opened models, slice by slice where it has slices; see `plan_of`."""
    method, dtype = recipe.method, recipe.output.dtype
    if recipe.slices is None:
        plan = plan_of(pool, method, seed=recipe.seed, batch_norm=recipe.batch_norm, dtype=dtype)
    else:
        plan = _plan_of_slices(recipe, recipe.slices, pool)
    return replace(plan, notes=(*plan.notes, *vocabulary_notes(pool.reference, pool.experts)))


def _plan_of_slices(recipe: Recipe, slices: Sequence[SliceConfig], pool: Pool) -> Plan:
    entry, dtype = methods[recipe.method.name], recipe.output.dtype
    if entry.kind != "stream" or STATISTICS in recipe.method.params:
        raise ConfigError(
            f"{entry.name} cannot be used with slices: it does not merge tensor by tensor from files alone."
        )
    return plan_slices(
        pool.base,
        pool.experts,
        slices,
        method=entry.name,
        origin=entry.base,
        parameters=entry.parameters,
        values=recipe.method.params,
        seed=recipe.seed,
        dtype=dtype if dtype == "base" else WORDS[dtype],
    )


def silent(what: str, done: int, total: int) -> None:
    """Report no progress."""


def merge(recipe: Recipe, folder: Path, progress: Progress = silent, pool: Pool | None = None) -> Merged:
    """Write the merged model of a recipe to `folder`, in the base's layout, whole or not at all.

    Args:
        recipe: base, experts and a stream method.
        folder: must not exist.
        progress: told how many entries are done.
        pool: the recipe's models where they are opened already.

    Raises:
        FusionBenchError: for every mistake of the user; nothing is left behind.
    """
    pool = pool or open_pool(recipe)
    plan = plan_of_recipe(recipe, pool)
    entry = methods[recipe.method.name]
    inputs = pool.fingerprints()
    outputs = [step.output for step in plan]
    if entry.kernel:
        # Some packages swallow an interruption that falls into their import; so it falls before anything is on disk.
        load_attribute(entry.kernel)
    total, done = total_entries(plan), 0

    def advance(entries: int) -> None:
        nonlocal done
        done += entries
        progress(f"merging by {entry.name}", done, total)

    with CheckpointWriter(
        folder,
        outputs,
        metadata={"fusionbench": json.dumps(header(recipe, entry, inputs), ensure_ascii=False)},
        shard_bytes=recipe.output.shard_bytes,
        finish=lambda place: copy_other_files(pool.reference, place, recipe.output.dtype, plan.config),
    ) as writer:
        passes = run_plan(
            plan,
            entry,
            writer,
            values=recipe.method.params,
            threads=recipe.runtime.threads,
            memory=recipe.runtime.memory,
            device=recipe.runtime.device,
            advance=advance,
        )
    return Merged(folder, sum(s.size for s in outputs), writer.total_bytes, passes, plan.notes, inputs)


def header(recipe: Recipe, entry: Entry, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return what each file of the output says of its making."""
    from importlib.metadata import version

    document = recipe.dump()
    document.pop("runtime")
    return {
        "schema": 1,
        "identity": identity(recipe, inputs=inputs, versions={entry.name: entry.version}, build=None),
        "recipe": document,
        "inputs": dict(inputs),
        "versions": {
            "fusionbench": version("fusionbench"),
            "python": platform.python_version(),
            entry.name: entry.version,
        },
    }


def copy_other_files(
    source: Source, folder: Path, dtype: str, changes: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Copy configuration, tokenizer and templates of a model.

    The configuration says the output's kind of number, and what `changes` say of its layers.
    """
    if isinstance(source, AdapterBase):
        source.complete(folder)
    if source.folder is None:
        return
    for pattern in COPIED:
        for path in sorted(source.folder.glob(pattern)):
            if path.is_file() and not any(path.match(skipped) for skipped in NOT_COPIED):
                shutil.copyfile(path, folder / path.name)
    if source.config and (changes or dtype != "base"):
        config = {**source.config, **changes}
        if dtype != "base":
            config = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
            config["dtype"] = dtype
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def bytes_per_entry(source: Source) -> dict[str, int]:
    """Return how many bytes of each kind of number a model holds."""
    totals: dict[str, int] = {}
    for spec in source.specs.values():
        totals[spec.dtype] = totals.get(spec.dtype, 0) + spec.size * ITEM_BYTES[spec.dtype]
    return totals
