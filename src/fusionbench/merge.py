"""Merge checkpoints by a recipe: open, check, plan, run, write. Torch is imported only where a method needs it."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fusionbench.config import MethodConfig, Recipe, RuntimeConfig, SliceConfig
from fusionbench.errors import ConfigError
from fusionbench.merge_header import header
from fusionbench.registry import family_serving, load_attribute, methods
from fusionbench.weights.adapters import open_experts
from fusionbench.weights.aliases import written_once
from fusionbench.weights.card import write_card
from fusionbench.weights.checks import fit
from fusionbench.weights.collected import STATISTICS, open_statistics
from fusionbench.weights.companions import copy_companions
from fusionbench.weights.engine import Prepared, run_plan
from fusionbench.weights.headers import WORDS, Source
from fusionbench.weights.jobs import Sink, total_entries
from fusionbench.weights.lock import write_lock
from fusionbench.weights.plan import Plan, build_plan
from fusionbench.weights.read_back import ReadBack
from fusionbench.weights.slices import plan_slices
from fusionbench.weights.stacking import model_of, plan_stack
from fusionbench.weights.tokens import vocabulary_notes
from fusionbench.weights.vocabulary_files import SharedVocabulary, chat_template, share_vocabulary, write_tokenizer
from fusionbench.weights.writer import CheckpointWriter

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is."""
ONE_FILE = (
    "the output is one file, which one process made: output.shard_bytes=500MB makes several, for as many processes"
)


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
    vocabulary: SharedVocabulary | None = None
    """What the models' tables of tokens were brought to, where the recipe asks for one vocabulary."""

    @property
    def reference(self) -> Source:
        """The checkpoint whose names, kinds and other files the output takes: the base, or the first expert."""
        return self.base if self.base is not None else next(iter(self.experts.values()))

    def sources(self) -> dict[str, Source]:
        """Return every model that is read, by name."""
        named = {**({"base": self.base} if self.base is not None else {}), **self.experts}
        return named | {f"statistics/{name}": source for name, source in self.statistics.items()}

    def fingerprints(self) -> dict[str, str]:
        """Return a digest of each model by name."""
        return {name: source.fingerprint() for name, source in self.sources().items()}


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did."""

    folder: Path
    parameters: int
    bytes: int
    passes: int
    notes: tuple[str, ...]
    inputs: Mapping[str, str] = field(default_factory=dict)


def open_pool(recipe: Recipe, *, headers: bool = False) -> Pool:
    """Open the base and the experts that a recipe names; headers are checked, tensors are not read.

    Args:
        recipe: it names at least one expert.
        headers: fetch only the headers of models that are on the hub alone, to plan what is not downloaded.

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
    pool = Pool(*open_experts(recipe.base, recipe.experts, space, headers=headers), family=recipe.family)
    if recipe.vocabulary is not None:
        base, experts, shared = share_vocabulary(pool.base, pool.experts, recipe.vocabulary)
        pool = replace(pool, base=base, experts=experts, vocabulary=shared)
    tower = "" if space == "adapter" else tower_of(pool.reference, recipe.family)
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
    return replace(pool, statistics=open_statistics(Path(folder), pool.experts, method.name))


def tower_of(source: Source, family: str = "auto") -> str:
    """Return the prefix of what is fused of a model: its family's tower, or "" for all.

    Where a checkpoint holds more than the bare model (a head of its pretraining, say), only the bare model is fused.
    """
    if (entry := family_serving(source.config, family)) is None:
        return ""
    data = entry.data or {}
    body = str(data.get("bodies", {}).get(source.config.get("model_type"), ""))
    held = bool(body) and any(name.startswith(body) for name in source.specs)
    return body if held else str(data.get("tower", ""))


def plan_of(
    pool: Pool, method: MethodConfig, *, seed: int = 0, batch_norm: str = "average", dtype: str = "base",
    glimpse: bool = False,
) -> Plan:  # fmt: skip
    """Return the plan of a stream method on opened models; with `glimpse` tables that may be tied are not read whole.

    Raises:
        ConfigError: where the method is of another kind, or needs a base that is not there.
        IncompatibleModels: with every difference between the models.
    """
    entry = methods[method.name]
    if entry.kind != "stream":
        raise ConfigError(f"{entry.name} does not merge tensor by tensor; use it with: fusionbench run.")
    if pool.base is None and entry.base == "required":
        raise ConfigError(f"{entry.name} works on deltas to a base model: name one with base=REF.")
    if (entry.data or {}).get("stacks"):
        model = model_of(pool.base, pool.experts, method.params["expert"])
        word = dtype if dtype == "base" else WORDS[dtype]
        return plan_stack(model, method.params["layers"], method=entry.name, dtype=word)
    if STATISTICS in method.params and not pool.statistics:
        pool = with_statistics(pool, method)
        if not pool.statistics:
            raise ConfigError(
                f"{entry.name} weighs by statistics of each expert's data. Collect them with: fusionbench run suite=…; "
                f"or name those of an earlier run: method.{STATISTICS}=RUN/artefacts/statistics."
            )
    plan = build_plan(
        pool.base,
        pool.experts,
        fit(pool.reference, pool.experts, tower=pool.tower, glimpse=glimpse),
        method=entry.name,
        parameters=entry.parameters,
        values=method.params,
        seed=seed,
        dtype=dtype if dtype == "base" else WORDS[dtype],
        batch_norm=batch_norm,
        statistics=pool.statistics,
    )
    if batch_norm == "recalibrate" and not pool.tasks and any(step.action == "batch_norm" for step in plan):
        raise ConfigError(
            "batch_norm=recalibrate looks at inputs, which a merge of files does not have. Use it with: fusionbench "
            "run suite=…; or choose average, keep_base or as_parameters."
        )
    return plan


def plan_of_recipe(recipe: Recipe, pool: Pool, *, glimpse: bool = False) -> Plan:
    """Return the plan of a recipe on its opened models, slice by slice where it has slices; see `plan_of`."""
    method, dtype = recipe.method, recipe.output.dtype
    if recipe.slices is None:
        plan = plan_of(pool, method, seed=recipe.seed, batch_norm=recipe.batch_norm, dtype=dtype, glimpse=glimpse)
    else:
        plan = _plan_of_slices(recipe, recipe.slices, pool)
    if pool.vocabulary is not None:
        changes = {**plan.config, **pool.vocabulary.config_changes()}
        return replace(plan, notes=(*plan.notes, *pool.vocabulary.alignment.notes), config=changes)
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


def merge(
    recipe: Recipe, folder: Path, progress: Progress = silent, pool: Pool | None = None, *, digest: bool = False,
    in_parts: bool = False,
) -> Merged:  # fmt: skip
    """Write the merged model of a recipe to `folder`, in the base's layout, whole or not at all.

    Args:
        recipe: base, experts and a stream method.
        folder: must not exist.
        progress: told how many entries are done.
        pool: the recipe's models where they are opened already.
        digest: read all that was written again and compare it, and put the SHA-256 of every input and output file into
            the lock, not only samples of them.
        in_parts: let the processes of `runtime.launcher` make the output's files; the recipe alone says what the
            models are. The bytes are the same.

    Raises:
        FusionBenchError: for every mistake of the user; nothing is left behind.
        Interrupted: where the user stops it; what is finished is kept, and gone on with the next time.
    """
    pool = pool or open_pool(recipe)
    if recipe.output.format == "lora":
        from fusionbench.merge_lora import merge_lora

        return merge_lora(recipe, folder, progress, pool, digest=digest, in_parts=in_parts)
    plan = plan_of_recipe(recipe, pool)
    entry = methods[recipe.method.name]
    inputs = pool.fingerprints()
    about = header(recipe, entry, inputs)
    outputs = [step.output for step in plan]
    if entry.kernel:
        # Some packages swallow an interruption that falls into their import; so it falls before anything is on disk.
        load_attribute(entry.kernel)

    def finish(place: Path) -> None:
        copy_companions(pool.reference, place, dtype=recipe.output.dtype, changes=plan.config)
        models = [*((pool.base,) if pool.base is not None else ()), *pool.experts.values()]
        write_tokenizer(place, pool.vocabulary, chat_template(models, recipe.output.chat_template))
        write_card(place, recipe.dump(), models, method=entry.name, paper=entry.paper)
        write_lock(place, about, pool.sources(), full=digest)

    with CheckpointWriter(
        folder,
        outputs,
        metadata={"fusionbench": json.dumps(about, ensure_ascii=False)},
        shard_bytes=recipe.output.shard_bytes,
        finish=finish,
        key=about["identity"],
        in_parts=in_parts,
    ) as writer:
        if in_parts:
            from fusionbench.merge_in_parts import run_in_parts

            passes = run_in_parts(recipe, about, plan, writer, progress, verify=digest)
        else:
            sink = ReadBack(writer) if digest else writer
            passes = run_recipe_plan(plan, recipe.method, recipe.runtime, sink, progress, finished=writer.finished)
            if isinstance(sink, ReadBack):
                sink.compare()
    notes = (*plan.notes, *([ONE_FILE] if in_parts and len(writer.layout.shards) == 1 else []))
    return Merged(folder, sum(s.size for s in outputs), writer.total_bytes, passes, notes, inputs)


def run_recipe_plan(
    plan: Plan, method: MethodConfig, runtime: RuntimeConfig, sink: Sink, progress: Progress = silent, *,
    finished: Collection[str] = (), prepared: Prepared | None = None,
) -> int:  # fmt: skip
    """Run a plan as a recipe asks, but for `finished` outputs, to disk or memory; return how often inputs were read."""
    plan, sink, finished = written_once(plan, sink, finished)
    entry, total, done = methods[method.name], total_entries(plan), 0

    def advance(entries: int) -> None:
        nonlocal done
        done += entries
        progress(f"merging by {entry.name}", done, total)

    return run_plan(
        plan,
        entry,
        sink,
        values=method.params,
        threads=runtime.threads,
        memory=runtime.memory,
        device=runtime.device,
        advance=advance,
        finished=finished,
        prepared=prepared,
    )
