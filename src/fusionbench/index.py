"""Write `index.json`, all that is registered, described from the decorators. Run: python -m fusionbench.index."""

import dataclasses
import importlib
import json
import pkgutil
from typing import Any

from fusionbench.parameters import Parameter
from fusionbench.registry import INDEX, KINDS, Entry

PACKAGES = ("fusionbench.methods", "fusionbench.families", "fusionbench.tasks", "fusionbench.suites")


def collect() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the index: by kind and name, the fields of every entry found in the packages that hold registered things.

    Raises:
        ValueError: where two things of a kind have one name.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
    for entry in _entries():
        kind = entry.kind if entry.kind in KINDS else "method"
        if entry.name in found[kind]:
            raise ValueError(f"{kind} {entry.name!r} is registered twice.")
        found[kind][entry.name] = _fields(entry)
    from fusionbench.experiments.model import entries as experiments
    from fusionbench.suites.paper import entries as suites

    for entry in suites():
        if entry.name in found["suite"]:
            raise ValueError(f"suite {entry.name!r} is registered twice.")
        found["suite"][entry.name] = _fields(entry)
    found["experiment"] = {entry.name: _fields(entry) for entry in experiments()}
    return {kind: dict(sorted(entries.items())) for kind, entries in found.items()}


def _entries() -> list[Entry]:
    entries: dict[int, Entry] = {}
    for package in PACKAGES:
        root = importlib.import_module(package)
        for info in pkgutil.walk_packages(root.__path__, package + "."):
            module = importlib.import_module(info.name)
            for item in vars(module).values():
                entry = getattr(item, "entry", None)
                if isinstance(entry, Entry) and entry.location.startswith(f"{module.__name__}:"):
                    entries[id(entry)] = entry
    return list(entries.values())


def _fields(entry: Entry) -> dict[str, Any]:
    """Return the entry's fields without its name and without those at their defaults."""
    plain = {f.name: f.default for f in dataclasses.fields(Entry)}
    fields = {key: value for key, value in dataclasses.asdict(entry).items() if value and value != plain[key]}
    fields.pop("name")
    if "parameters" in fields:
        fields["parameters"] = [_parameter(p) for p in fields["parameters"]]
    return fields


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter's fields without those at their defaults; a bound of 0 is no default."""
    plain = {f.name: f.default for f in dataclasses.fields(Parameter)}
    keep = ("name", "type", "default")
    return {key: value for key, value in parameter.items() if key in keep or (value is not plain[key] and value != ())}


def render() -> str:
    """Return the text of `index.json`."""
    return json.dumps(collect(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    INDEX.write_text(render())
