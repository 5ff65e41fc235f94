"""A mergekit recipe with `slices`: its models by name, and our slices with the parameters that differ among them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fusionbench.compat.mergekit.models import Model, Slice, named
from fusionbench.compat.mergekit.values import Values
from fusionbench.compat.mergekit.words import Target
from fusionbench.config.slices import BASE
from fusionbench.registry import methods

JSON = Any


class Stack(NamedTuple):
    """What the slices of a recipe are in ours."""

    experts: dict[str, Model]
    params: dict[str, JSON]
    """Of the method: what is the same in all slices."""
    slices: list[dict[str, JSON]]


def as_stack(name: str, target: Target, slices: Sequence[Slice], base: str | None, values: Values) -> Stack:
    """Return the models and our slices; what has no equal is added to the problems of `values`.

    Args:
        name: mergekit's name of the method.
        target: what it is here.
        slices: as they were read.
        base: the recipe's `base_model`.
        values: the reader of its parameters.
    """
    has_base = target.base != "input"
    first = {source.key: source for part in reversed(slices) for source in reversed(part.sources)}
    ordered = dict.fromkeys(source.key for part in slices for source in part.sources)
    experts = named([first[key] for key in ordered if not (has_base and key == (base, None))], taken=(BASE,))
    names = {model.key: expert for expert, model in experts.items()}
    if has_base and base is not None:
        names[base, None] = BASE
    written, found = [], []
    for part in slices:
        own = (part.base, None) if has_base and part.base is not None else None
        merged = {names[source.key]: source for source in part.sources if source.key != own}
        others = [source for source in part.sources if source.key == own]
        if target.base == "required" and not others:
            values.problems.append(
                f"{part.path}: {name} needs the base among the sources: add {part.base or 'base_model'}."
            )
        found.append(values.of(merged, others, [(f"{part.path}.parameters", part.parameters)]))
        is_other = others and part.base != base
        written.append(
            {
                "sources": [{"expert": names[s.key], "layers": s.layers} for s in part.sources],
                **({"base": names[others[0].key]} if is_other else {}),
            }
        )
    if not experts:
        values.problems.append("slices: there is no model beside the base.")
    return Stack(experts, _divide(target, found, written, [part.path for part in slices], values.problems), written)


def _divide(
    target: Target, found: Sequence[Mapping[str, JSON]], slices: Sequence[dict[str, JSON]], paths: Sequence[str],
    problems: list[str],
) -> dict[str, JSON]:  # fmt: skip
    """Put into each slice what differs from slice to slice; return what does not."""
    common: dict[str, JSON] = {}
    for parameter in methods[target.method].parameters:
        key = parameter.name
        given = [values.get(key) for values in found]
        if all(value is None for value in given):
            continue
        if not isinstance(given[0], Mapping) and all(value == given[0] for value in given):
            common[key] = given[0]
        elif not parameter.scheduled:
            problems.append(f"{paths[0]}.parameters: our {key} holds for the whole model, {given} differ.")
        elif not parameter.per_expert:
            for part, value in zip(slices, given, strict=True):
                part.setdefault("parameters", {})[key] = value
        else:
            for part, value in zip(slices, given, strict=True):
                _put(part, key, value)
    return common


def _put(part: dict[str, JSON], key: str, value: JSON) -> None:
    """Write a value, one for all or one an expert, beside the sources of a slice that are no base."""
    for source in part["sources"]:
        own = value.get(source["expert"]) if isinstance(value, Mapping) else value
        if own is not None and source["expert"] != part.get("base", BASE):
            source.setdefault("parameters", {})[key] = own
