"""Overrides laid over a recipe's document."""

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fusionbench.errors import ConfigError
from fusionbench.overrides.grammar import Override, parse

GROUPS = (("suite",), ("method",), ("vocabulary",), ("runtime",), ("runtime", "launcher"))
"""Keys whose plain value names a thing with keys of its own; they are applied before all others."""
SHORT = {"launcher": ("runtime", "launcher")}
"""First parts of keys that stand for longer ones on the command line: `launcher=ray launcher.workers=8`."""


def apply(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a recipe's document with the overrides laid over it.

    Args:
        document: what the recipe's file says, or an empty mapping.
        overrides: none may sweep.

    Raises:
        ConfigError: naming every override that cannot be read or does not fit.
    """
    changed: dict[str, Any] = _copy(expand_shorthands(document))
    parsed, problems = [], []
    for text in overrides:
        try:
            parsed.append(_in_full(parse(text)))
        except ConfigError as error:
            problems.append(str(error))
    experts = changed.get("experts")
    named = set(experts) if isinstance(experts, dict) else set()
    for override in sorted(parsed, key=lambda item: len(item.key) if item.key in GROUPS else sys.maxsize):
        try:
            _refuse(changed, override, named)
            _lay(changed, override)
        except ConfigError as error:
            problems.append(f"{override.text!r}: {error}")
        if override.key == ("experts",):
            named.clear()
    if problems:
        raise ConfigError("\n".join(problems))
    return changed


def _in_full(override: Override) -> Override:
    first, *rest = override.key
    return replace(override, key=(*SHORT[first], *rest)) if first in SHORT else override


def expand_shorthands(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a recipe's document in which `suite: mini/clip` and its like are written as mappings."""
    expanded = {key: _spelled_out((key,), value) for key, value in document.items()}
    if isinstance(experts := expanded.get("experts"), Mapping):
        expanded["experts"] = {name: _spelled_out(("experts", name), value) for name, value in experts.items()}
    return expanded


def _spelled_out(path: tuple[str, ...], value: Any) -> Any:
    """Return the mapping that a bare value at `path` stands for; any other value as it is."""
    if path == ("tasks",):
        return {"seen": value} if isinstance(value, str | list | tuple) else value
    if not isinstance(value, str):
        return value
    if path == ("suite",) or (path[0] == "method" and set(path[1:]) <= {"inner"}):
        return {"name": value}
    if path == ("runtime", "launcher"):
        return {"name": value}
    if path == ("vocabulary",):
        return {"source": value}
    return {"model": value} if path[0] == "experts" and len(path) == 2 else value


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def _refuse(document: Mapping[str, Any], override: Override, named: set[str]) -> None:
    """Refuse what Hydra refuses too: a sweep without -m, and a new expert without a plus."""
    if override.sweeps:
        several = ",".join(override.spelled)
        raise ConfigError(
            f"several values. Add -m for one run of each; a list is written [{several}], text with commas is quoted."
        )
    if override.action != "set" or override.key[:1] != ("experts",) or len(override.key) == 1 or not named:
        return
    name = override.key[1]
    if name not in document["experts"]:
        close = difflib.get_close_matches(name, named, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(named))}."
        raise ConfigError(f"there is no expert {name!r}; {hint} To add it write +{override.text}")


def _lay(document: dict[str, Any], override: Override) -> None:
    holder = document
    *parents, last = override.key
    for depth, part in enumerate(parents, start=1):
        if override.action == "delete" and part not in holder:
            raise ConfigError(f"there is no {'.'.join(override.key)} to remove.")
        path = override.key[:depth]
        below = {} if holder.get(part) is None else _spelled_out(path, holder[part])
        if not isinstance(below, dict):
            raise ConfigError(f"{'.'.join(path)} is {below!r}, which has no keys; write the whole value.")
        holder[part] = holder = below
    if override.action == "delete":
        _remove(holder, last, override)
    elif override.action == "add" and last in holder:
        raise ConfigError("the key is there already; drop the + to set it, or write ++ for either.")
    else:
        holder[last] = override.values[0]


def _remove(holder: dict[str, Any], last: str, override: Override) -> None:
    if last not in holder:
        raise ConfigError(f"there is no {'.'.join(override.key)} to remove.")
    expected = [_spelled_out(override.key, value) for value in override.values]
    if expected and expected[0] not in (holder[last], str(holder[last])):
        raise ConfigError(f"{'.'.join(override.key)} is {holder[last]!r}, so it stays.")
    del holder[last]
