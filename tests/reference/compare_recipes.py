"""Independent reading of the golden mergekit recipes: precedence, filters, gradients and slices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from independent_compat import mergekit_arithmetic
from independent_geometry import slerp
from independent_linear import weighted_average
from independent_models import Array

State = dict[str, Array]
LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)$")
MISSING = object()


class Input(NamedTuple):
    """One tensor that goes into an output tensor, and the parameters written beside its model, nearest first."""

    model: str
    name: str
    scopes: tuple[Mapping[str, Any], ...]


class Output(NamedTuple):
    """One output tensor: name, inputs, position t in its slice, shared scopes."""

    name: str
    inputs: tuple[Input, ...]
    t: float
    scopes: tuple[Mapping[str, Any], ...]


def at(value: Any, name: str, t: float) -> Any:
    """Value of one scope for a tensor: number, gradient, filtered value, or a list of filtered ones (first match)."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for entry in value:
            if entry.get("filter") in (None, "*") or entry["filter"] in name:
                return at(entry["value"], name, t)
        return MISSING
    if not isinstance(value, list):
        return value
    place = t * (len(value) - 1)
    low = min(int(place), len(value) - 2) if len(value) > 1 else 0
    if len(value) == 1:
        return value[0]
    return value[low] * (1 - (place - low)) + value[low + 1] * (place - low)


def lookup(key: str, scopes: Sequence[Mapping[str, Any]], name: str, t: float, default: Any = MISSING) -> Any:
    """Return the first scope's value that is defined for this tensor."""
    for scope in scopes:
        value = at(scope[key], name, t) if key in scope else MISSING
        if value is not MISSING:
            return value
    if default is MISSING:
        raise KeyError(key, name)
    return default


def outputs(recipe: Mapping[str, Any], names: Sequence[str], layers: int) -> Iterator[Output]:
    """Plan every output tensor. First slice serves what comes before the blocks, the last what comes after."""
    shared = recipe.get("parameters", {})
    whole = [{**source, "layer_range": [0, layers]} for source in recipe.get("models", [])]
    if whole and recipe.get("base_model") not in {None, *(source["model"] for source in whole)}:
        whole.append({"model": recipe["base_model"], "layer_range": [0, layers]})
    slices = recipe.get("slices") or [{"sources": whole}]

    def inputs(part: Mapping[str, Any], rename: Any) -> tuple[Input, ...]:
        return tuple(
            Input(source["model"], rename(source), (source.get("parameters", {}), part.get("parameters", {}), shared))
            for source in part["sources"]
        )

    for name in names:
        if not LAYER.match(name):
            part = slices[0] if "embed" in name else slices[-1]
            yield Output(name, inputs(part, lambda _, n=name: n), 0.0, (part.get("parameters", {}), shared))
    suffixes = sorted({match[2] for name in names if (match := LAYER.match(name))})
    start = 0
    for part in slices:
        low, high = part["sources"][0]["layer_range"]
        for index in range(high - low):
            t = index / (high - low - 1) if high - low > 1 else 1.0
            for suffix in suffixes:
                found = inputs(part, lambda s, i=index, x=suffix: f"model.layers.{s['layer_range'][0] + i}.{x}")
                yield Output(f"model.layers.{start + index}.{suffix}", found, t, (part.get("parameters", {}), shared))
        start += high - low


def merged(recipe: Mapping[str, Any], output: Output, models: Mapping[str, State]) -> Array:
    """One output tensor."""
    method, base_model = recipe["merge_method"], recipe.get("base_model")
    tensors = [models[item.model][item.name] for item in output.inputs]

    def each(key: str, default: Any = MISSING) -> list[float]:
        rest = [item for item in output.inputs if method == "linear" or item.model != base_model]
        return [float(lookup(key, item.scopes, item.name, output.t, default)) for item in rest]

    if method == "linear":
        return weighted_average(None, tensors, weights=each("weight"))  # type: ignore[return-value]
    if method == "passthrough":
        item = output.inputs[0]
        return tensors[0] * lookup("scale", item.scopes, item.name, output.t, 1.0)
    if method == "slerp":
        return slerp(None, tensors, t=lookup("t", output.scopes, output.name, output.t))
    experts = [x for x, item in zip(tensors, output.inputs, strict=True) if item.model != base_model]
    return mergekit_arithmetic(
        models[str(base_model)][output.name],
        experts,
        weights=each("weight"),
        density=each("density", 1.0),
        gamma=each("gamma", 0.01),
        sparsify={"ties": "magnitude", "breadcrumbs": "outliers"}.get(method, "none"),  # type: ignore[arg-type]
        consensus=method == "ties",
        normalize=lookup("normalize", output.scopes, output.name, output.t, method == "ties"),
        scale=lookup("lambda", output.scopes, output.name, output.t, 1.0),
    )


def recipe_result(recipe: Mapping[str, Any], models: Mapping[str, State], layers: int = 4) -> State:
    """All output tensors of a recipe."""
    return {output.name: merged(recipe, output, models) for output in outputs(recipe, sorted(models["a"]), layers)}
