"""The models of a mergekit recipe."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fusionbench.compat.mergekit.words import Target
from fusionbench.config.wording import unknown_key

JSON = Any
EXAMPLES = {"model": "REF", "layer_range": "[0, 16]", "parameters": "{…}"}


class Model(NamedTuple):
    """One entry of `models`."""

    path: str
    """Where it stands in the recipe, such as models[1]."""
    reference: str
    adapter: str | None
    parameters: Mapping[str, JSON]
    layers: JSON = None
    """`layer_range`, in a slice."""

    @property
    def key(self) -> tuple[str, str | None]:
        """What tells it from other models."""
        return self.reference, self.adapter

    def as_expert(self) -> JSON:
        """Return the expert of a recipe that it is."""
        return self.reference if self.adapter is None else {"model": self.reference, "adapter": self.adapter}


def read_models(document: Mapping[str, JSON], problems: list[str]) -> list[Model]:
    """Return the entries of `models`; what is wrong with them is added to `problems`."""
    found = document.get("models")
    if not isinstance(found, list) or not found:
        problems.append(f"models: expected a list such as [{{model: REF}}], got {found!r}.")
        return []
    return entries_of(found, "models", ("model", "parameters"), problems)


def without_base(
    name: str, target: Target, models: Sequence[Model], base: str | None, problems: list[str]
) -> list[Model]:
    """Return the models that are merged: without the base where it is the origin of the deltas.

    Args:
        name: mergekit's name of the method.
        target: what it is here.
        models: as they are listed.
        base: the recipe's `base_model`; where it is one input of many, it joins them unlisted.
        problems: what is wrong is added.
    """
    is_base = [model.reference == base and model.adapter is None for model in models]
    if target.base == "required" and base is None:
        problems.append(f"base_model is missing: {name} needs it.")
    if target.base == "input":
        unlisted = base is not None and not any(is_base)
        return [*models, *([Model("base_model", str(base), None, {})] if unlisted else [])]
    merged = [model for model, same in zip(models, is_base, strict=True) if not same]
    if models and not merged:
        problems.append("models: there is none beside the base.")
    return merged


class Slice(NamedTuple):
    """One entry of `slices`."""

    path: str
    sources: list[Model]
    base: str | None
    """Its own `base_model`, or the recipe's."""
    parameters: Mapping[str, JSON]


def read_slices(document: Mapping[str, JSON], base: str | None, problems: list[str], notes: list[str]) -> list[Slice]:
    """Return the entries of `slices`; what is wrong with them is added to `problems`."""
    found = document["slices"]
    if not isinstance(found, list) or not found:
        example = "[{sources: [{model: REF, layer_range: [0, 16]}]}]"
        problems.append(f"slices: expected a list such as {example}, got {found!r}.")
        return []
    slices = []
    for index, entry in enumerate(found):
        path = f"slices[{index}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("sources"), list) or not entry["sources"]:
            problems.append(f"{path}: expected {{sources: [{{model: REF, layer_range: [0, 16]}}]}}, got {entry!r}.")
            continue
        known = ("sources", "base_model", "parameters", "residual_weight")
        problems += [unknown_key(f"{path}.{key}", path, known) for key in entry if key not in known]
        if "residual_weight" in entry:
            notes.append(f"{path}.residual_weight: mergekit reads it and does nothing with it; left out.")
        sources = entries_of(entry["sources"], f"{path}.sources", ("model", "layer_range", "parameters"), problems)
        problems += [
            f"{source.path}.layer_range: expected [first, one after the last], got {source.layers!r}."
            for source in sources
            if not isinstance(source.layers, list) or len(source.layers) != 2
        ]
        own, adapter = (base, None)
        if entry.get("base_model") is not None:
            own, adapter = read_reference(entry["base_model"], f"{path}.base_model", problems)
        if adapter is not None:
            problems.append(f"{path}.base_model: {adapter_on_base(str(own), adapter)}")
        parameters = read_mapping(entry.get("parameters"), f"{path}.parameters", problems)
        slices.append(Slice(path, sources, own, parameters))
    return slices


def adapter_on_base(model: str, adapter: str) -> str:
    """Return why an adapter on the base is refused, and how to go on."""
    return (
        f"the base is whole here, without the adapter {adapter}. Make it first, and name its folder: fusionbench merge "
        f"experts.base={{model: {model}, adapter: {adapter}}} method=passthrough --out FOLDER"
    )


def entries_of(found: Sequence[JSON], where: str, known: Sequence[str], problems: list[str]) -> list[Model]:
    """Return a list of models; each stands in it once.

    Args:
        found: as it stands in the recipe.
        where: the key that it is the value of.
        known: keys that an entry may have.
        problems: what is wrong is added.
    """
    models: list[Model] = []
    for index, entry in enumerate(found):
        path = f"{where}[{index}]"
        if not isinstance(entry, Mapping) or "model" not in entry:
            example = ", ".join(f"{key}: {EXAMPLES[key]}" for key in known)
            problems.append(f"{path}: expected {{{example}}}, got {entry!r}.")
            continue
        problems += [unknown_key(f"{path}.{key}", path, known) for key in entry if key not in known]
        reference, adapter = read_reference(entry["model"], f"{path}.model", problems)
        if any(model.key == (reference, adapter) for model in models):
            problems.append(f"{path}.model: {entry['model']} is there twice.")
        parameters = read_mapping(entry.get("parameters"), f"{path}.parameters", problems)
        models.append(Model(path, reference, adapter, parameters, entry.get("layer_range")))
    return models


def read_mapping(value: JSON, path: str, problems: list[str]) -> Mapping[str, JSON]:
    """Return a mapping of parameters, empty where there is none."""
    if value is None or isinstance(value, Mapping):
        return value or {}
    problems.append(f"{path}: expected a mapping such as {{weight: 0.5}}, got {value!r}.")
    return {}


def read_reference(value: JSON, path: str, problems: list[str]) -> tuple[str, str | None]:
    """Return a model and its adapter, each a folder or `id@revision`."""
    text = _in_text(value, path, problems) if isinstance(value, Mapping) else str(value)
    if Path(text).exists():
        return text, None
    match = re.fullmatch(r"([^@+]+(?:@[^@+]+)?)(?:\+([^@+]+(?:@[^@+]+)?))?", text)
    if match is None:
        problems.append(f"{path}: expected path[@revision][+adapter[@revision]], got {value!r}.")
        return text, None
    return match[1], match[2]


def _in_text(value: Mapping[str, JSON], path: str, problems: list[str]) -> str:
    """Return the text form of a reference that is written as a mapping."""
    known = ("model", "lora", "override_architecture")
    problems += [unknown_key(f"{path}.{key}", path, known) for key in value if key not in known]
    if value.get("override_architecture") is not None:
        problems.append(f"{path}.override_architecture: tensors are known by their own names here; leave it out.")
    parts = []
    for key in ("model", "lora"):
        part = value.get(key)
        if isinstance(part, Mapping):
            own = ("path", "revision")
            problems += [unknown_key(f"{path}.{key}.{k}", f"{path}.{key}", own) for k in part if k not in own]
            part = "@".join(str(part[k]) for k in own if part.get(k) is not None)
        if part:
            parts.append(str(part))
    return "+".join(parts)


def named(models: Sequence[Model], taken: Sequence[str] = ()) -> dict[str, Model]:
    """Return the models by name: the last part of each reference, numbered where two have one name or it is taken."""
    experts: dict[str, Model] = {}
    for model in models:
        name = free = _name_of(model)
        count = 1
        while free in experts or free in taken:
            count += 1
            free = f"{name}-{count}"
        experts[free] = model
    return experts


def _name_of(model: Model) -> str:
    parts = [Path(part.partition("@")[0]).name for part in (model.reference, model.adapter) if part]
    cleaned = [re.sub(r"[^\w.-]+", "_", part).strip("._-") for part in parts]
    return "+".join(part for part in cleaned if part) or "model"
