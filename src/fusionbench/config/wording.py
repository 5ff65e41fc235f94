"""pydantic's findings in our words: where, what was found, what was expected, what there is."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fusionbench.registry import methods

EXPECTED = {
    "string_type": "expected text",
    "string_too_short": "expected text",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "dict_type": "expected a mapping such as {{key: value}}",
    "model_type": "expected a mapping such as {{key: value}}",
    "tuple_type": "expected a list such as [a, b]",
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le}",
    "less_than": "expected less than {lt}",
}


def worded(model: type[BaseModel], error: ValidationError, document: Any) -> list[str]:
    """Return one line for each problem that `model` found in `document`."""
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        location = tuple(str(part) for part in problem["loc"] if part != "[key]")
        path = ".".join(location)
        if problem["type"] == "value_error":
            said = str(problem["ctx"]["error"]).split("\n")
            lines += [line if line.startswith(path) else f"{path}: {line}" for line in said]
        elif problem["type"] == "extra_forbidden":
            lines.append(_unknown(model, location, document))
        elif problem["type"] == "missing":
            lines.append(f"{path} is missing.{_example(path)}")
        elif problem["type"] == "literal_error":
            lines.append(f"{path}: expected {problem['ctx']['expected']}; got {_short(problem['input'])}")
        else:
            # The library's own words may have braces, such as those of a pattern.
            known = EXPECTED.get(problem["type"])
            expected = problem["msg"] if known is None else known.format(**problem.get("ctx", {}))
            lines.append(f"{path or 'the recipe'}: {expected}; got {_short(problem['input'])}")
    return lines


def unknown_key(path: str, owner: str, known: Iterable[str]) -> str:
    """Return the sentence for a key that `owner` does not have: the nearest one, and all there are."""
    known = list(known)
    close = difflib.get_close_matches(path.rpartition(".")[2], known, n=1)
    hint = f"did you mean {close[0]}? It" if close else "it"
    return f"{path} is not a key of {owner}; {hint} has: {', '.join(known) or 'none'}."


def _unknown(model: type[BaseModel], location: tuple[str, ...], document: Any) -> str:
    *owner, key = location
    holder = _model_at(model, owner)
    known = list(holder.model_fields) if holder else []
    elsewhere = [] if owner else _elsewhere(model, key, document)
    if elsewhere:
        return f"{key} is not a key of a recipe; did you mean {' or '.join(elsewhere)}?"
    return unknown_key(".".join(location), ".".join(owner) or "a recipe", known)


def _model_at(model: type[BaseModel] | None, location: Iterable[str]) -> type[BaseModel] | None:
    """Return the model that describes the mapping at `location`; names below a mapping of models are skipped."""
    for part in location:
        field = model.model_fields.get(part) if model else None
        if field is not None:
            model = _model_in(field.annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _elsewhere(model: type[BaseModel], key: str, document: Any) -> list[str]:
    """Return where in a recipe a misplaced key belongs: in a group, or among the parameters of its method."""
    groups = {name: _model_in(field.annotation) for name, field in model.model_fields.items()}
    places = [f"{name}.{key}" for name, group in groups.items() if group and key in group.model_fields]
    method = document.get("method") if isinstance(document, Mapping) else None
    name = method.get("name") if isinstance(method, Mapping) else method
    if isinstance(name, str) and name in methods and key in [item.name for item in methods[name].parameters]:
        places.append(f"method.{key}")
    return places


def _example(path: str) -> str:
    examples = {"method": " Add method=ties, say; `fusionbench list methods` shows all."}
    return examples.get(path, "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
