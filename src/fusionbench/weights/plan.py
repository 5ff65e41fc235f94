"""The plan of a merge: a flat list that says, for each output tensor, what it is made of. No torch here.

Slices, renames, filters and layer gradients live here and nowhere else; a method sees one tensor and plain values.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from fusionbench.errors import ConfigError
from fusionbench.parameters import Parameter, is_schedule
from fusionbench.weights.aliases import merged_as_one, under_one_rule
from fusionbench.weights.checks import Fit
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.roles import Role, inputs_last, is_statistic, places, role

Action = Literal["merge", "copy", "batch_norm"]


@dataclass(frozen=True, slots=True)
class Site:
    """What a method may know of the tensor in its hands.

    Attributes:
        name: canonical name.
        shape: of the whole tensor.
        start: flat index of this chunk's first entry; 0 for a whole tensor.
        role: the part it plays.
        inputs_last: whether a matrix is `(out, in)`; False for GPT-2's Conv1D.
        stack: "encoder" or "decoder" in models that have both, else "".
        depth: its block, counted from 0; None outside all blocks.
        depths: number of blocks in its stack.
        experts: names of the experts, in order.
        seed: of this run and method; random numbers are functions of it, of names and of flat indices.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    role: Role
    inputs_last: bool
    stack: str
    depth: int | None
    depths: int
    experts: tuple[str, ...]
    seed: int


class Input(NamedTuple):
    """One tensor of one source."""

    source: int
    spec: TensorSpec


class Step(NamedTuple):
    """How one output tensor is made."""

    output: TensorSpec
    action: Action
    site: Site
    base: Input | None
    experts: tuple[Input, ...]
    parameters: Mapping[str, Any]
    """Values for this tensor: one an expert as a tuple, others plain."""
    statistics: tuple[Input, ...] = ()
    """What was collected of each expert's data for this tensor; empty where some expert has nothing."""

    @property
    def held(self) -> int:
        """Entries of the largest tensor that is read or written."""
        return max(self.output.size, max((place.spec.size for place in self.statistics), default=0))


@dataclass(frozen=True, slots=True)
class Plan:
    """Sources (base, experts, statistics, as far as there are any) and steps in the order of the output's files."""

    sources: tuple[Source, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    """What the output's config.json says otherwise than the reference's."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Outputs that are second names of tied tensors, each with the output that it is a copy of."""

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)


def seed_of(seed: int, method: str) -> int:
    """Return the 63-bit number that all random choices of a method in a run are functions of."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{method}".encode()).digest()[:8], "little") >> 1


def build_plan(
    base: Source | None,
    experts: Mapping[str, Source],
    found: Fit,
    *,
    method: str,
    parameters: Sequence[Parameter],
    values: Mapping[str, Any],
    seed: int = 0,
    dtype: str = "base",
    batch_norm: str = "average",
    statistics: Mapping[str, Source] | None = None,
) -> Plan:
    """Return the plan of a merge of whole models.

    Args:
        base: the pretrained model; None where the method needs none.
        experts: the fine-tuned ones, by name.
        found: what the check of their fit found.
        method: its name, from which random choices are seeded.
        parameters: descriptions of the method's parameters.
        values: their checked values.
        seed: the recipe's.
        dtype: of the output's floating tensors, in safetensors' words; "base" keeps the reference's.
        batch_norm: policy for running means and variances.
        statistics: what was collected of each expert's data, by name; tensors have the outputs' names.
    """
    reference = base if base is not None else next(iter(experts.values()))
    collected = [statistics[name] for name in experts] if statistics else []
    sources = (*((base,) if base is not None else ()), *experts.values(), *collected)
    offset = 0 if base is None else 1
    scope, where = set(found.scope), places(reference.specs)
    resolve = resolver(parameters, values, tuple(experts))
    steps = []
    for name, spec in reference.specs.items():
        place = where[name]
        site = Site(name, spec.shape, 0, role(spec), inputs_last(spec, reference.config), place.stack, place.depth,
                    place.depths, tuple(experts), seed_of(seed, method))  # fmt: skip
        action = _action(name, spec, scope, batch_norm)
        output = spec if dtype == "base" or not spec.is_float else spec._replace(dtype=dtype)
        inputs = tuple(
            Input(offset + i, expert.specs[own[name]])
            for i, (expert, own) in enumerate(zip(experts.values(), found.names, strict=True))
        ) if action != "copy" else ()  # fmt: skip
        needed = base is not None or action == "copy"
        known = _collected(name, collected, offset + len(experts)) if action == "merge" else ()
        steps.append(Step(output, action, site, Input(0, spec) if needed else None, inputs, resolve(site), known))
    aliases = under_one_rule(found.aliases, {step.output.name: step.parameters for step in steps})
    apart = {*merged_as_one(found.aliases)} - {*merged_as_one(aliases)}
    return Plan(sources, tuple(steps), tuple(note for note in found.notes if note not in apart), aliases=aliases)


def _collected(name: str, statistics: Sequence[Source], offset: int) -> tuple[Input, ...]:
    """Return each expert's statistic of a tensor, or nothing where not all have one."""
    if not all(name in source.specs for source in statistics):
        return ()
    return tuple(Input(offset + i, source.specs[name]) for i, source in enumerate(statistics))


def _action(name: str, spec: TensorSpec, scope: set[str], batch_norm: str) -> Action:
    if name not in scope or not spec.is_float:
        return "copy"
    if is_statistic(name) and batch_norm != "as_parameters":
        return "copy" if batch_norm == "keep_base" else "batch_norm"
    return "merge"


def resolver(
    parameters: Sequence[Parameter], values: Mapping[str, Any], experts: tuple[str, ...]
) -> Callable[[Site], Mapping[str, Any]]:
    """Return a function from a site to the values there; one shared mapping where nothing depends on the tensor."""
    each = {p.name for p in parameters if p.per_expert}
    fixed = {name: _per_expert(name, value, experts) if name in each else value for name, value in values.items()}
    varying = {name for name, value in fixed.items() if _varies(value)}
    if not varying:
        return lambda _: fixed
    return lambda site: {name: _at(value, site, name) if name in varying else value for name, value in fixed.items()}


def settled(parameters: Sequence[Parameter], values: Mapping[str, Any], experts: tuple[str, ...]) -> dict[str, Any]:
    """Return a method's values where it is given whole models: one an expert as a tuple, others plain.

    Raises:
        ConfigError: where a value differs from tensor to tensor, or does not fit the experts.
    """
    each = {p.name for p in parameters if p.per_expert}
    fixed = {n: v if n not in each or v is None else _per_expert(n, v, experts) for n, v in values.items()}
    varying = [name for name, value in fixed.items() if _varies(value)]
    if varying:
        raise ConfigError(
            f"method.{varying[0]} differs from tensor to tensor, and this method takes one value for the whole model"
            f"{', or one an expert' if varying[0] in each else ''}."
        )
    return fixed


def _per_expert(name: str, value: Any, experts: tuple[str, ...]) -> Any:
    """Return one value, or schedule, an expert as a tuple."""
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in experts]
        missing = [key for key in experts if key not in value]
        if unknown or missing:
            raise ConfigError(
                f"method.{name} names {', '.join(unknown or missing)}; the experts are {', '.join(experts)}."
            )
        return tuple(value[expert] for expert in experts)
    if isinstance(value, list | tuple) and not is_schedule(value):
        if len(value) != len(experts):
            raise ConfigError(
                f"method.{name} has {len(value)} values for the {len(experts)} experts {', '.join(experts)}."
            )
        return tuple(value)
    return (value,) * len(experts)


def _varies(value: Any) -> bool:
    return is_schedule(value) or (isinstance(value, tuple) and any(is_schedule(item) for item in value))


def _at(value: Any, site: Site, name: str) -> Any:
    if isinstance(value, tuple):
        return tuple(_scheduled(item, site, name) if is_schedule(item) else item for item in value)
    return _scheduled(value, site, name)


def _scheduled(entries: Sequence[Mapping[str, Any]], site: Site, name: str) -> Any:
    """Return the value of the first entry that names the tensor; lists are gradients over depth."""
    for entry in entries:
        if _names(entry.get("filter"), site.name):
            value = entry["value"]
            return gradient(value, site) if isinstance(value, list | tuple) else value
    filters = [entry.get("filter") for entry in entries]
    modules = {filtered if isinstance(filtered, str) else filtered[0] for filtered in filters if filtered} == HALVES
    also = " In a recipe of mergekit's: add modules.shared, which is merged like any other module." if modules else ""
    raise ConfigError(
        f"method.{name} has no value for {site.name}: end its list with an entry that has no filter.{also}"
    )


HALVES = {"encoder.", "decoder."}
"""Filters of the modules that make up a model of two stacks, but for the table of tokens that both may share."""


def _names(filtered: str | Sequence[str] | None, name: str) -> bool:
    """Tell whether a filter, or each of several, is part of a tensor's name; none is part of all, and so is "*"."""
    parts = [filtered] if isinstance(filtered, str) or filtered is None else filtered
    return all(part in (None, "*") or str(part) in name for part in parts)


def gradient(values: Sequence[float], site: Site) -> float:
    """Return the value at a tensor's depth, linear between the entries; outside all blocks the first one."""
    if site.depth is None or len(values) == 1:
        return values[0]
    position = (1.0 if site.depths == 1 else site.depth / (site.depths - 1)) * (len(values) - 1)
    left = min(int(position), len(values) - 2)
    part = position - left
    return (1 - part) * values[left] + part * values[left + 1]
