"""The models of a mergekit recipe."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fusionbench.config.wording import unknown_key

JSON = Any


class Model(NamedTuple):
    """One entry of `models`."""

    path: str
    """Where it stands in the recipe, such as models[1]."""
    reference: str
    adapter: str | None
    parameters: Mapping[str, JSON]

    def as_expert(self) -> JSON:
        """Return the expert of a recipe that it is."""
        return self.reference if self.adapter is None else {"model": self.reference, "adapter": self.adapter}


def read_models(document: Mapping[str, JSON], problems: list[str]) -> list[Model]:
    """Return the entries of `models`; what is wrong with them is added to `problems`."""
    found = document.get("models")
    if not isinstance(found, list) or not found:
        if "slices" not in document and "modules" not in document:
            problems.append(f"models: expected a list such as [{{model: REF}}], got {found!r}.")
        return []
    models: list[Model] = []
    for index, entry in enumerate(found):
        path = f"models[{index}]"
        if not isinstance(entry, Mapping) or "model" not in entry:
            problems.append(f"{path}: expected {{model: REF, parameters: {{…}}}}, got {entry!r}.")
            continue
        known = ("model", "parameters")
        problems += [unknown_key(f"{path}.{key}", path, known) for key in entry if key not in known]
        reference, adapter = read_reference(entry["model"], f"{path}.model", problems)
        if any(model[1:3] == (reference, adapter) for model in models):
            problems.append(f"{path}.model: {entry['model']} is there twice.")
        parameters = read_mapping(entry.get("parameters"), f"{path}.parameters", problems)
        models.append(Model(path, reference, adapter, parameters))
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
    problems += [f"{path}.{key} cannot be honoured yet." for key in value if key not in ("model", "lora")]
    parts = []
    for key in ("model", "lora"):
        part = value.get(key)
        if isinstance(part, Mapping):
            known = ("path", "revision")
            problems += [unknown_key(f"{path}.{key}.{k}", f"{path}.{key}", known) for k in part if k not in known]
            part = "@".join(str(part[k]) for k in known if part.get(k) is not None)
        if part:
            parts.append(str(part))
    return "+".join(parts)


def named(models: Sequence[Model]) -> dict[str, Model]:
    """Return the models by name: the last part of each reference, numbered where two have one name."""
    experts: dict[str, Model] = {}
    for model in models:
        name = free = _name_of(model)
        count = 1
        while free in experts:
            count += 1
            free = f"{name}-{count}"
        experts[free] = model
    return experts


def _name_of(model: Model) -> str:
    parts = [Path(part.partition("@")[0]).name for part in (model.reference, model.adapter) if part]
    cleaned = [re.sub(r"[^\w.-]+", "_", part).strip("._-") for part in parts]
    return "+".join(part for part in cleaned if part) or "model"
