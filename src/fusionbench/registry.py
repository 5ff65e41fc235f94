"""Names of everything that can be chosen: ours from the index, other packages' from their entry points.

The index (`index.json`) is written from the decorators by `python -m fusionbench.index` and holds names, summaries and
parameters, so that listing and checking need no import of torch; an object's module is imported when it is asked for.
"""

import difflib
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fusionbench.errors import ConfigError
from fusionbench.parameters import Parameter

INDEX = Path(__file__).with_name("index.json")
KINDS = ("method", "family", "task", "suite", "experiment")


class Workspace(NamedTuple):
    """What a stream method's torch function holds at its peak beside its inputs, its result among it.

    Attributes:
        fixed: copies of the tensor at hand in float32; a copy in float64 counts twice.
        each: further ones for each expert.
        blocks: likewise for each expert, of no more than a block of the tensor.
        squares: float32 matrices over a matrix's `side`.
        side: "inputs", or "longer": the longer side.
    """

    fixed: float = 3.0
    each: float = 0.0
    blocks: float = 0.0
    squares: float = 0.0
    side: Literal["", "inputs", "longer"] = ""


MODEST = Workspace()
"""Of methods that say nothing: a sum, a term of it and the result."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one registered thing without importing it."""

    name: str
    summary: str
    location: str
    """`module:attribute` of the object."""
    version: int = 1
    kind: str = ""
    category: str = ""
    paper: str = ""
    needs: tuple[str, ...] = ()
    unit: str = "element"
    base: str = "required"
    kernel: str = ""
    """`module:attribute` of the torch-free form, or "" where there is none."""
    laws: tuple[str, ...] = ()
    exempt: Mapping[str, str] | None = None
    parameters: tuple[Parameter, ...] = ()
    compat: Mapping[str, Mapping[str, Any]] | None = None
    """Parameters that each peer's preset sets, by preset."""
    data: Mapping[str, Any] | None = None
    """What else is known without importing it: a family's model types and tower."""
    workspace: Workspace = MODEST

    def load(self) -> Any:
        """Import and return the object itself."""
        return load_attribute(self.location)


def load_attribute(location: str) -> Any:
    """Return the attribute named by `module:attribute`."""
    module, _, attribute = location.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry:
    """The registered things of one kind, by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getitem__(self, name: str) -> Entry:
        """Return the entry called `name`.

        Raises:
            ConfigError: where there is none, with the nearest names.
        """
        entries = _built_in(self.kind)
        if name in entries:
            return entries[name]
        if name in (plugins := _plugins(self.kind)):
            return _entry_of(plugins[name])
        raise ConfigError(f"There is no {self.kind} named {name!r}. {suggestion(name, list(self))}")

    def __contains__(self, name: object) -> bool:
        return name in _built_in(self.kind) or name in _plugins(self.kind)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*_built_in(self.kind), *_plugins(self.kind)}))


methods, families, tasks, suites, experiments = (Registry(kind) for kind in KINDS)


def family_serving(config: Mapping[str, Any], chosen: str = "auto") -> Entry | None:
    """Return the family that runs the model of a `config.json`: the chosen one, or the first that serves its type.

    Nothing is imported but where several families serve a type: then the first that says of the whole configuration
    that it matches.

    Args:
        config: a checkpoint's configuration.
        chosen: a family's name, which decides; "auto" looks at `model_type`.

    Raises:
        ConfigError: where there is no family called `chosen`.
    """
    if chosen != "auto":
        return families[chosen]
    kind = config.get("model_type")
    serving = [entry for name in families if kind in ((entry := families[name]).data or {}).get("model_types", ())]
    if len(serving) > 1:
        serving = [entry for entry in serving if entry.load()().matches(config)]
    return serving[0] if serving else None


def methods_that_need(part: str) -> tuple[str, ...]:
    """Return the names of the methods that ask a family for a part, such as "mlps"."""
    return tuple(name for name in methods if part in (methods[name].data or {}).get("parts", ()))


def suggestion(name: str, known: list[str]) -> str:
    """Return "Did you mean …?" with the nearest known names, or the list of all."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(sorted(known)) or 'none'}."


@cache
def _built_in(kind: str) -> dict[str, Entry]:
    index = json.loads(INDEX.read_text())
    return {name: entry_from_json(name, fields) for name, fields in index.get(kind, {}).items()}


def entry_from_json(name: str, fields: Mapping[str, Any]) -> Entry:
    """Return the entry that `fields` of the index describe."""
    parameters = tuple(Parameter(**{**p, "choices": tuple(p.get("choices", ()))}) for p in fields.get("parameters", ()))
    tuples = {key: tuple(fields.get(key, ())) for key in ("needs", "laws")}
    workspace = Workspace(*fields.get("workspace", ()))
    return Entry(**{**fields, **tuples, "name": name, "parameters": parameters, "workspace": workspace})


@cache
def _plugins(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"fusionbench.{kind}")}


def _entry_of(point: EntryPoint) -> Entry:
    """Return the entry that a plugin's object carries, or a bare one for an object without a decorator."""
    item = point.load()
    described = getattr(item, "entry", None)
    if isinstance(described, Entry):
        return described
    summary = (item.__doc__ or "").strip().partition("\n")[0]
    return Entry(point.name, summary, point.value, version=getattr(item, "version", 1))
