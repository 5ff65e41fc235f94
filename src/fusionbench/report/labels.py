"""What tells the runs of one method apart, in as few words as possible."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fusionbench.records import Run, Variant

Settings = Mapping[str, Any]

NOT_IN_A_LABEL = frozenset({"method", "seed", "runtime", "output", "suite.name", "suite.size", "suite.seed"})
"""Keys of a recipe that the report states itself, or that never change a number."""
LEAST_DIGITS, ALL_DIGITS = 4, 17
"""Significant digits of a number in a label, and how many tell any two numbers apart."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row to be: a variant of a run, with everything that was chosen for it, flat."""

    run: Run
    variant: Variant
    settings: Settings

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.run.report.method.name


def entries_of(runs: Sequence[Run]) -> list[Entry]:
    """Return all variants of all runs; of runs with the same report only the first counts."""
    unique: dict[str, Run] = {}
    for run in runs:
        unique.setdefault(run.report.dump_json(), run)
    return [Entry(run, variant, settings(run, variant)) for run in unique.values() for variant in run.report.variants]


def settings(run: Run, variant: Variant) -> dict[str, Any]:
    """Return what was chosen for a variant, flat: parameters by name, keys of the recipe by dotted path."""
    report = run.report
    chosen = {**flat(report.method.params), **flat(variant.params)}
    chosen |= {"variant": variant.label, "compat": report.method.compat, "seed": report.seed}
    if report.method.inner:
        inner = report.method.inner
        chosen |= {"inner": inner.name, **flat(inner.params, "inner.")}
    if report.suite:
        chosen |= {"suite.seed": report.suite.seed, "suite.build": (report.suite.build or "")[:8] or None}
    return {**_of_recipe(run.recipe), **chosen}


def scored_on(run: Run, *, corruption: bool = True) -> str:
    """Return what a run was scored on where that is not the whole clean test split; "" where it is.

    Args:
        run: a finished one.
        corruption: say how the inputs were corrupted, too.
    """
    chosen = _of_recipe(run.recipe)
    said = []
    if (split := chosen.get("tasks.split") or "test") != "test":
        said.append(f"{split} split")
    if corruption and (name := chosen.get("tasks.corruption")):
        said.append(f"{name}, severity {chosen.get('tasks.severity', 2)}")
    if limit := chosen.get("tasks.limit"):
        said.append(f"first {limit} examples")
    return ", ".join(said)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def differing(entries: Sequence[Entry]) -> list[str]:
    """Return the keys whose values are not the same in all `entries`, in the order in which they first occur."""
    keys = dict.fromkeys(key for entry in entries for key in entry.settings)
    return [key for key in keys if len({shown(entry.settings.get(key)) for entry in entries}) > 1]


def labels_of(entries: Sequence[Entry]) -> list[str]:
    """Return one label an entry: the method, and the settings that differ between the entries of that method.

    Entries that still read the same (the code or an input changed between them) get the start of their identity.
    """
    words: dict[str, dict[str, Mapping[str, str]]] = {}
    for method in {entry.method for entry in entries}:
        group = [entry for entry in entries if entry.method == method]
        words[method] = {key: abbreviated([entry.settings.get(key) for entry in group]) for key in differing(group)}
    labels = [_label(entry, words[entry.method]) for entry in entries]
    count = Counter(labels)
    return [
        label if count[label] == 1 else f"{label} #{short(entry.run.report.identity)}"
        for label, entry in zip(labels, entries, strict=True)
    ]


def short(identity: str) -> str:
    """Return the first eight digits of an identity."""
    return identity.rpartition(":")[2][:8]


def shown(value: Any) -> str:
    """Return a setting as a recipe would write it."""
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def abbreviated(values: Sequence[Any]) -> Mapping[str, str]:
    """Return a text of each value by its `shown` form: numbers in as few digits, at least four, as tell them apart."""
    for digits in range(LEAST_DIGITS, ALL_DIGITS):
        texts = {shown(value): shown(_rounded(value, digits)) for value in values}
        if len(set(texts.values())) == len(texts):
            return texts
    return {shown(value): shown(value) for value in values}


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, list | tuple):
        return [_rounded(each, digits) for each in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def order_of(value: Any) -> tuple[int, float, str]:
    """Return a key that sorts settings: none first, numbers by size, the rest by their text."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float) and math.isfinite(value):
        return 1, float(value), ""
    return 2, 0.0, shown(value)


def _label(entry: Entry, words: Mapping[str, Mapping[str, str]]) -> str:
    """Return the method with the settings that `words` has texts for, each by its `shown` form."""
    named = entry.variant.label is not None
    said = [
        (key, texts[shown(entry.settings[key])])
        for key, texts in words.items()
        if entry.settings.get(key) is not None and not (named and key in flat(entry.variant.params))
    ]
    parts = [text if key == "variant" else f"{key}={text}" for key, text in said]
    return f"{entry.method} ({', '.join(parts)})" if parts else entry.method


def _of_recipe(text: str) -> dict[str, Any]:
    """Return what a label may name of a recipe, flat; the experts by name, since their places say little."""
    try:
        recipe = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return {}
    if not isinstance(recipe, Mapping):
        return {}
    suite = recipe.get("suite")
    named = {
        **recipe,
        "suite": suite if isinstance(suite, Mapping) else {},
        "experts": list(recipe.get("experts") or ()),
    }
    kept = flat({str(key): value for key, value in named.items() if key not in NOT_IN_A_LABEL})
    return {key: value for key, value in kept.items() if key not in NOT_IN_A_LABEL}
