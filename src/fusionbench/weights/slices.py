"""The plan of a recipe with slices: layers of several models, one after the other, each fused or passed through.

Slices, renumbering, filters and gradients end here; a method sees one tensor and plain values. No torch here.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from fusionbench.config.slices import BASE, SliceConfig, SliceSource
from fusionbench.errors import ConfigError, IncompatibleModels
from fusionbench.parameters import Parameter, is_schedule
from fusionbench.weights.checks import Fit, fit, is_buffer, is_tied
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.layers import Shortened, layer_of, stacked_config
from fusionbench.weights.plan import Input, Plan, Site, Step, resolver, seed_of
from fusionbench.weights.roles import inputs_last, role

_BEFORE = re.compile(r"(?<!\w)(?!embed_out)(\w*emb\w*|wte|wpe|shared|pre_\w+|\w+_token)(?!\w)", re.IGNORECASE)
"""A part of a name that says that the tensor acts before the first layer; all others outside layers act after them."""
Values = Mapping[str, Any]
Settle = Callable[[Site], Values]


@dataclass(frozen=True, slots=True)
class _Model:
    """One model of the recipe: its place among the plan's sources, and its tensors under the reference's names."""

    index: int
    source: Source
    stack: str
    layers: int
    specs: Mapping[str, TensorSpec]


class _Input(NamedTuple):
    """One model in one slice."""

    name: str
    model: _Model
    start: int
    settle: Settle
    """From the place of its own tensor to its values of the parameters that each expert has."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One slice."""

    length: int
    base: _Input | None
    experts: tuple[_Input, ...]
    settle: Settle
    """From the place of an output to the values that all experts share."""

    @property
    def first(self) -> _Input:
        return self.base or self.experts[0]


def plan_slices(
    base: Source | None,
    experts: Mapping[str, Source],
    slices: Sequence[SliceConfig],
    *,
    method: str,
    origin: Literal["required", "optional", "unused"] | str,
    parameters: Sequence[Parameter],
    values: Values,
    seed: int = 0,
    dtype: str = "base",
) -> Plan:
    """Return the plan of a recipe with slices.

    What stands before the layers (embeddings) is made of the first slice's sources, what stands after them (the final
    norm, the head) of the last slice's, each with that slice's parameters. Gradients run over one slice, from its first
    layer to its last; a slice of one layer has the last value, what stands outside the layers the first.

    Args:
        base: the pretrained model; None where the method needs none.
        experts: the fine-tuned ones, by name.
        slices: the result's layers from first to last.
        method: its name, from which random choices are seeded.
        origin: whether the method works on a base: "required", "optional" or "unused".
        parameters: descriptions of the method's parameters.
        values: their checked values; those of a slice or of one of its sources win over them.
        seed: the recipe's.
        dtype: of the output's floating tensors, in safetensors' words; "base" keeps the reference's.

    Raises:
        ConfigError: where layers are out of range, or a slice lacks the base that the method needs.
        IncompatibleModels: where tensors that are to be fused are missing, or differ in shape.
    """
    models, found = _open(base, experts)
    reference = models[BASE if base is not None else next(iter(experts))]
    resolver(parameters, values, tuple(experts))
    parts = [_part(n, part, models, tuple(experts), origin, parameters, values) for n, part in enumerate(slices)]
    total = sum(part.length for part in parts)
    builder = _Builder(reference, total, seed_of(seed, method), dtype)
    steps = list(_steps(builder, parts, found.scope))
    if builder.problems:
        raise IncompatibleModels("\n".join(["The layers of the slices do not fit together:", *builder.problems[:20]]))
    chosen = [(part.first.model.source.config, part.first.start, part.length) for part in parts]
    config, notes = stacked_config(reference.source.config, reference.layers, chosen)
    sources = (*((base,) if base is not None else ()), *experts.values())
    if is_tied(reference.source.config) and parts[0].first.model is not parts[-1].first.model:
        notes = (*notes, "the head is tied to the embedding, so both come from the first slice")
    return Plan(
        sources, tuple(steps), (*found.notes, *notes), config, found.aliases if is_tied(reference.source.config) else {}
    )


def _open(base: Source | None, experts: Mapping[str, Source]) -> tuple[dict[str, _Model], Fit]:
    """Return the models by name, held to one another as far as all of them go."""
    named = {**({BASE: base} if base is not None else {}), **experts}
    stacks = {name: stack_of(source) for name, source in named.items()}
    shared = min(layers for _, layers in stacks.values())
    (first, reference), *_ = named.items()
    found = fit(Shortened(reference, shared), {n: Shortened(s, shared) for n, s in named.items() if n != first})
    own = {first: {name: name for name in found.scope}}
    own |= dict(zip([n for n in named if n != first], map(dict, found.names), strict=True))
    models = {}
    for index, (name, source) in enumerate(named.items()):
        stack, layers = stacks[name]
        specs = {canonical: source.specs[o] for canonical, o in own[name].items() if o in source.specs}
        specs |= {
            stacks[first][0] + spec.name.removeprefix(stack): spec
            for spec in source.specs.values()
            if (layer_of(spec.name) or ("", -1))[1] >= shared and not is_buffer(spec)
        }
        models[name] = _Model(index, source, stacks[first][0], layers, specs)
    return models, found


def stack_of(source: Source) -> tuple[str, int]:
    """Return a model's one stack of layers, and how many it has.

    Raises:
        ConfigError: where it has none, or several.
    """
    stacks: dict[str, int] = {}
    for stack, layer in filter(None, map(layer_of, source.specs)):
        stacks[stack] = max(stacks.get(stack, 0), layer + 1)
    if len(stacks) != 1:
        have = f"{len(stacks)}: {', '.join(sorted(stacks))}" if stacks else "none"
        raise ConfigError(f"slices need models with one stack of numbered layers; {source.label} has {have}.")
    return next(iter(stacks.items()))


def _part(
    number: int,
    part: SliceConfig,
    models: Mapping[str, _Model],
    experts: tuple[str, ...],
    origin: str,
    parameters: Sequence[Parameter],
    values: Values,
) -> _Part:
    """Return a slice with its models, whose layers are there, and with functions that give its values."""
    for source in part.sources:
        model = models[source.expert]
        if source.layers[1] > model.layers:
            raise ConfigError(
                f"slices.{number}: {source.expert} has no layers [{source.layers[0]}, {source.layers[1]}]; "
                f"it has {model.layers}, so [0, {model.layers}] is all of them."
            )
    names = [source.expert for source in part.sources]
    its_base = None if origin == "unused" else part.base or (BASE if BASE in names else None)
    if its_base is None and origin == "required":
        raise ConfigError(
            f"slices.{number} lacks the base, which the method needs: list its layers too, {{expert: base, layers: …}}."
        )
    each = [parameter for parameter in parameters if parameter.per_expert]
    shared = {name: value for name, value in values.items() if name not in {parameter.name for parameter in each}}

    def as_input(source: SliceSource) -> _Input:
        own = {p.name: _own_value(p.name, values[p.name], source, part, experts) for p in each}
        return _Input(source.expert, models[source.expert], source.layers[0], resolver(each, own, (source.expert,)))

    inputs = {source.expert: as_input(source) for source in part.sources}
    return _Part(
        length=part.sources[0].length,
        base=inputs.get(its_base or ""),
        experts=tuple(entry for name, entry in inputs.items() if name != its_base),
        settle=resolver([], {**shared, **{k: v for k, v in part.parameters.items() if k in shared}}, ()),
    )


def _own_value(name: str, value: Any, source: SliceSource, part: SliceConfig, experts: Sequence[str]) -> tuple[Any]:
    """Return an expert's value of a parameter: its own in this slice, the slice's, or the method's."""
    for scope in (source.parameters, part.parameters):
        if name in scope:
            return (scope[name],)
    if isinstance(value, list | tuple) and not is_schedule(value):
        value = dict(zip(experts, value, strict=True))
    if not isinstance(value, Mapping):
        return (value,)
    if source.expert not in value:
        raise ConfigError(f"method.{name} has no value for {source.expert}; give it in the parameters of its source.")
    return (value[source.expert],)


def _steps(builder: "_Builder", parts: Sequence[_Part], names: Sequence[str]) -> Iterator[Step]:
    """Yield the steps in the reference's order: outside the layers, and all layers where its first one stands."""
    tied = is_tied(builder.reference.source.config)
    stacked = False
    for name in names:
        if layer_of(name) is None:
            before = _BEFORE.search(name) or (tied and role(builder.reference.specs[name]) == "head")
            yield from builder.step(parts[0] if before else parts[-1], name, None, 0)
        elif not stacked:
            stacked = True
            start = 0
            for part in parts:
                for index in range(part.length):
                    for suffix in _suffixes(part.first, index):
                        yield from builder.step(part, suffix, index, start + index)
                start += part.length


def _suffixes(entry: _Input, index: int) -> Iterator[str]:
    prefix = f"{entry.model.stack}{entry.start + index}."
    return (name.removeprefix(prefix) for name in entry.model.specs if name.startswith(prefix))


class _Builder:
    """Makes the steps of one plan; what does not fit is gathered in `problems`."""

    def __init__(self, reference: _Model, total: int, seed: int, dtype: str) -> None:
        self.reference, self.total, self.seed, self.dtype = reference, total, seed, dtype
        self.problems: list[str] = []
        self._kinds = {_without_layer(name): spec.dtype for name, spec in reference.specs.items()}

    def step(self, part: _Part, name: str, index: int | None, layer: int) -> Iterator[Step]:
        """Yield how one output is made, or nothing where its inputs do not fit.

        Args:
            part: the slice that it is in.
            name: of the tensor; inside a layer, what follows the layer's number.
            index: of the layer in its slice; None outside all layers.
            layer: its number in the result.
        """
        output = name if index is None else f"{self.reference.stack}{layer}.{name}"
        entries = [*([part.base] if part.base else []), *part.experts]
        own = [name if index is None else f"{self.reference.stack}{e.start + index}.{name}" for e in entries]
        specs = [entry.model.specs.get(canonical) for entry, canonical in zip(entries, own, strict=True)]
        if not self._fits(entries, own, specs):
            return
        held = [spec for spec in specs if spec is not None]
        shape, kind = held[0].shape, self._kinds.get(_without_layer(output), held[0].dtype)
        floats = held[0].is_float
        spec = TensorSpec(output, (kind if self.dtype == "base" else self.dtype) if floats else held[0].dtype, shape)
        site = Site(output, shape, 0, role(spec), inputs_last(spec, self.reference.source.config), "",
                    None if index is None else layer, 1 if index is None else self.total,
                    tuple(entry.name for entry in part.experts), self.seed)  # fmt: skip
        inputs = [Input(entry.model.index, spec) for entry, spec in zip(entries, held, strict=True)]
        base, others = (inputs[0], inputs[1:]) if part.base else (None, inputs)
        if not floats or not others:
            yield Step(spec, "copy", site, inputs[0], (), {})
            return
        place = replace(site, depth=index, depths=part.length)
        yield Step(spec, "merge", site, base, tuple(others), _values(part, own[-len(others) :], place))

    def _fits(self, entries: Sequence[_Input], own: Sequence[str], specs: Sequence[TensorSpec | None]) -> bool:
        first = specs[0]
        before = len(self.problems)
        for entry, name, spec in zip(entries, own, specs, strict=True):
            if spec is None:
                self.problems.append(f"  {entry.name}: has no {name}")
            elif first is not None and (spec.shape, spec.is_float) != (first.shape, first.is_float):
                theirs, ours = "×".join(map(str, spec.shape)), "×".join(map(str, first.shape))
                self.problems.append(f"  {entry.name}: {name} is {spec.dtype} {theirs}, {own[0]} of {entries[0].name} "
                                     f"{first.dtype} {ours}")  # fmt: skip
        return len(self.problems) == before


def _values(part: _Part, own: Sequence[str], place: Site) -> Values:
    """Return the values at an output: shared ones by its name, those of each expert by its own tensor's name."""
    each = [entry.settle(replace(place, name=name)) for entry, name in zip(part.experts, own, strict=True)]
    return {**part.settle(place), **{key: tuple(values[key][0] for values in each) for key in each[0]}}


def _without_layer(name: str) -> str:
    stack, _ = layer_of(name) or ("", 0)
    return stack + name.removeprefix(stack).partition(".")[2] if stack else name
