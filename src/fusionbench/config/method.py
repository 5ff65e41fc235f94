"""A method and its parameters: defaults, a peer's preset, a named variant and what the user typed, in that order."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator

from fusionbench.config.document import read_document
from fusionbench.config.fields import Config
from fusionbench.errors import ConfigError
from fusionbench.parameters import Parameter, check
from fusionbench.registry import Entry, methods

Compat = Literal["paper", "official", "fusion_bench", "mergekit"]
PRESETS = Path(__file__).parents[1] / "presets" / "method"
OWN_PRESETS = Path("presets", "method")
"""Where a user's own variants are, below the current folder; they come before ours."""


class MethodConfig(Config):
    """A method's name and every parameter it has, checked; read and written flat, `{name: ties, density: 0.2}`."""

    name: str
    compat: Compat | None = Field(
        None, description="whose arithmetic: sets the parameters where implementations differ"
    )
    params: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        if isinstance(value, MethodConfig):
            return value
        try:
            return complete(value)
        except ConfigError as error:
            # The cause tells `Config.read` which method it is about.
            raise ValueError(str(error)) from error

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, "compat": self.compat, **self.params}


def complete(value: Any, path: str = "method") -> dict[str, Any]:
    """Return `{name, compat, params}` of a method as it is written in a recipe, with a value for every parameter.

    Args:
        value: a name, or a mapping with a name, a compat and parameters.
        path: its key, for messages.

    Raises:
        ConfigError: naming every problem, one a line, each starting with its key.
    """
    typed = {"name": value} if isinstance(value, str) else value
    if not isinstance(typed, Mapping) or not isinstance(typed.get("name"), str):
        raise ConfigError(f"{path}: expected a method such as {{name: ties, density: 0.2}}, got {value!r}")
    layered = {**_preset(typed["name"], path), **{key: item for key, item in typed.items() if key != "name"}}
    entry = methods[layered.pop("name")]
    compat = layered.pop("compat", None)
    problems: list[str] = []
    params: dict[str, Any] = {}
    try:
        layered = {**_compat_values(entry, compat, path), **layered}
    except ConfigError as error:
        problems.append(str(error))
    try:
        params = check(entry.name, entry.parameters, layered)
    except ConfigError as error:
        problems.append(re.sub(r"^method\.", f"{path}.", str(error), flags=re.MULTILINE))
    for parameter in entry.parameters:
        try:
            value = params.get(parameter.name, layered.get(parameter.name))
            params[parameter.name] = _read_further(parameter, value, path)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems), about=entry.name)
    return {"name": entry.name, "compat": compat, "params": params}


def over_suite_defaults(value: Any, defaults: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return a method as written, over what its suite sets for it: defaults < compat < preset < what was typed.

    Args:
        value: a name, or a mapping with a name, a compat and parameters.
        defaults: parameters by method.
    """
    typed = {"name": value} if isinstance(value, str) else value
    if not isinstance(typed, Mapping) or not isinstance(typed.get("name"), str):
        return value
    try:
        preset = _preset(typed["name"], "method")
        entry = methods[preset["name"]]
        if entry.name not in defaults:
            return value
        layered = {**preset, **{key: item for key, item in typed.items() if key != "name"}}
        return {**defaults[entry.name], **_compat_values(entry, layered.get("compat"), "method"), **layered}
    except ConfigError:
        # What is wrong with it is said where the method is read.
        return value


def method_defaults(value: Any) -> dict[str, Any]:
    """Return what the parameters of a method are where its recipe does not set them; nothing for an unknown method."""
    name = value.get("name") if isinstance(value, Mapping) else None
    try:
        preset = _preset(name, "method") if isinstance(name, str) else {}
        entry = methods[preset.pop("name")]
        compat = value.get("compat", preset.get("compat"))
        defaults = {parameter.name: parameter.default for parameter in entry.parameters}
        return {"compat": None, **defaults, **_compat_values(entry, compat, "method"), **preset}
    except (ConfigError, KeyError):
        return {}


def _preset(name: str, path: str) -> dict[str, Any]:
    """Return what the named variant sets, its method's name included; for a method's own name, only that."""
    if name in methods:
        return {"name": name}
    file = _preset_file(name)
    if file is None:
        raise ConfigError(f"{path}: {_nothing_called(name)}")
    preset = read_document(file)
    if not isinstance(preset.get("name"), str) or preset["name"] not in methods:
        raise ConfigError(f"{path}: the preset {file} names no method; it starts with a line such as 'name: ties'.")
    return preset


def _preset_file(name: str) -> Path | None:
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", name):
        return None
    files = [folder / f"{name}.yaml" for folder in (OWN_PRESETS, PRESETS)]
    return next((file for file in files if file.is_file()), None)


def _nothing_called(name: str) -> str:
    group = name.partition("/")[0]
    if "/" in name and group in methods:
        found = [path for folder in (OWN_PRESETS, PRESETS) for path in sorted(folder.glob(f"{group}/*.yaml"))]
        variants = sorted({f"{group}/{path.stem}" for path in found})
        return f"there is no preset {name!r}. Presets of {group}: {', '.join(variants) or 'none'}."
    try:
        methods[name]
    except ConfigError as error:
        return str(error)
    raise AssertionError(name)


def _compat_values(entry: Entry, compat: Any, path: str) -> Mapping[str, Any]:
    """Return what a peer's preset sets for a method; `paper` is the method's own defaults."""
    presets = {"paper": {}, **(entry.compat or {})}
    if compat is None:
        return {}
    if not isinstance(compat, str) or compat not in presets:
        raise ConfigError(f"{path}.compat: {entry.name} has no compat {compat!r}; it has: {', '.join(presets)}.")
    return presets[compat]


def _read_further(parameter: Parameter, value: Any, path: str) -> Any:
    """Return a value that `check` has passed with what it leaves as text: inner methods, and entries of lists."""
    if parameter.type == "method" and (isinstance(value, str) or (isinstance(value, Mapping) and "name" in value)):
        inner = complete(value, f"{path}.{parameter.name}")
        return {"name": inner["name"], "compat": inner["compat"], **inner["params"]}
    if parameter.type == "list" and isinstance(value, list):
        return [_number_or_text(item) for item in value]
    return value


def _number_or_text(item: Any) -> Any:
    """Return an entry of a list whose type the index does not know: a number where it is written as one."""
    if isinstance(item, list):
        return [_number_or_text(part) for part in item]
    if not isinstance(item, str) or not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", item):
        return item
    return int(item) if re.fullmatch(r"[+-]?\d+", item) else float(item)
