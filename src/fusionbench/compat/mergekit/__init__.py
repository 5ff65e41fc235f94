"""A mergekit recipe, translated: models or slices, parameters with filters and gradients, the base, dtypes."""

from collections.abc import Mapping
from typing import Any

from fusionbench.compat.mergekit.models import (
    Model,
    adapter_on_base,
    named,
    read_models,
    read_reference,
    read_slices,
    without_base,
)
from fusionbench.compat.mergekit.modules import as_modules, read_modules
from fusionbench.compat.mergekit.stacks import as_stack
from fusionbench.compat.mergekit.tokenizers import read_template, read_vocabulary
from fusionbench.compat.mergekit.values import Values
from fusionbench.compat.mergekit.words import DTYPES, KEYS, METHODS, Target, variant
from fusionbench.config.wording import unknown_key
from fusionbench.errors import ConfigError
from fusionbench.registry import methods, suggestion

__all__ = ["from_mergekit"]
JSON = Any


def from_mergekit(document: Mapping[str, JSON]) -> tuple[dict[str, JSON], tuple[str, ...]]:
    """Return the recipe that a mergekit document (0.1.5) describes, and notes on what was translated.

    Args:
        document: with `merge_method`; values may be text, as our reader gives them, or typed, as YAML's.

    Returns:
        A recipe's document, to be read by `Recipe.read`, with every parameter written out and `compat: mergekit` where
        our method's arithmetic has that preset; and the notes.

    Raises:
        ConfigError: naming every key that is unknown, that cannot be honoured yet, or that mergekit ignores in silence.
    """
    name = str(document.get("merge_method"))
    problems, notes = _unread(document), list[str]()
    target = variant(name, METHODS[name], document) if name in METHODS else None
    if target is None:
        problems.append(f"merge_method: mergekit has no {name!r}. {suggestion(name, list(METHODS))}")
    elif target.method not in methods:
        problems.append(f"merge_method: {name} is our {target.method}, which this version does not have yet.")
        target = None
    base = _base(document, problems)
    forms = [key for key in ("models", "slices", "modules") if document.get(key) is not None]
    if len(forms) > 1:
        problems.append(f"{' and '.join(forms)}: a recipe has one of them.")
    slices = read_slices(document, base, problems, notes) if "slices" in forms else []
    modules = read_modules(document, problems) if "modules" in forms else []
    output = {**read_template(document, problems, notes), "dtype": _dtype(document, problems, notes)}
    recipe: dict[str, JSON] = {}
    params: dict[str, JSON] = {}
    if target is None:
        if "slices" not in forms and "modules" not in forms:
            read_models(document, problems)
    else:
        values = Values(name, target, document.get("parameters"), problems, notes)
        if slices:
            stack = as_stack(name, target, slices, base, values)
            experts, params = stack.experts, stack.params
            recipe = {"slices": stack.slices}
        elif forms in (["slices"], ["modules"]):
            experts, params = as_modules(name, target, modules, base, values)
        else:
            experts, params = _whole(name, target, document, base, values)
        recipe = {**recipe, **read_vocabulary(document, base, experts, problems, notes)}
    if target is None or problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    entry = methods[target.method]
    compat = {"compat": "mergekit"} if "mergekit" in (entry.compat or {}) else {}
    method = {"name": entry.name, **compat, **target.sets}
    notes.insert(0, f"merge_method: {name} → method: {', '.join(f'{key}: {value}' for key, value in method.items())}")
    given = {key: model.as_expert() for key, model in experts.items()}
    recipe = {"base": base, "experts": given, "method": {**method, **params}, **recipe, "output": output}
    return recipe, tuple(dict.fromkeys(notes))


def _unread(document: Mapping[str, JSON]) -> list[str]:
    """Return a problem for each key that is not read."""
    unknown = [unknown_key(str(key), "a mergekit recipe", KEYS) for key in document if key not in KEYS]
    alone = "name: it tells the recipes of one file apart; a recipe that stands alone has none."
    return [*unknown, *([alone] if "name" in document else [])]


def _base(document: Mapping[str, JSON], problems: list[str]) -> str | None:
    if document.get("base_model") is None:
        return None
    reference, adapter = read_reference(document["base_model"], "base_model", problems)
    if adapter is not None:
        problems.append(f"base_model: {adapter_on_base(str(reference), adapter)}")
    return reference


def _dtype(document: Mapping[str, JSON], problems: list[str], notes: list[str]) -> str:
    """Return the output's dtype; sums are in float32 whatever it is."""
    names = {
        key: str(document[key]).removeprefix("torch.")
        for key in ("out_dtype", "dtype")
        if document.get(key) is not None
    }
    for key, name in names.items():
        if name not in DTYPES:
            problems.append(f"{key}: expected one of {', '.join(DTYPES)}; got {name!r}.")
    if "dtype" in names:
        notes.append("dtype: mergekit calculates in it; here sums are in float32 and it is the output's dtype.")
    return next(iter(names.values()), "base")


def _whole(
    name: str, target: Target, document: Mapping[str, JSON], base: str | None, values: Values
) -> tuple[dict[str, Model], dict[str, JSON]]:
    """Return the models of a recipe of whole models by name, and our parameters."""
    models = read_models(document, values.problems)
    merged = without_base(name, target, models, base, values.problems)
    experts = named(merged)
    return experts, values.of(experts, [model for model in models if model not in merged]) if merged else {}
