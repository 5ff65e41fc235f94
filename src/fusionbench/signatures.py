"""What a function's signature says of its parameters: descriptions for the index, and values back as keywords.

A parameter is written once, as an annotated keyword with an entry in the docstring; several methods share some as the
fields of a dataclass.
"""

import inspect
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from fusionbench.parameters import INJECTED, EachExpert, InnerMethod, Parameter, Range


def describe(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Return the description of each keyword-only parameter of `function` that a recipe may set.

    A dataclass as a keyword is what several methods have in common: its fields are parameters of each of them, with the
    defaults of the keyword's default; `arguments` is the way back.

    Raises:
        TypeError: where a keyword has an annotation that a recipe cannot express.
    """
    hints = get_type_hints(function, include_extras=True)
    documented = _documented(inspect.getdoc(function) or "")
    found: list[Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in INJECTED:
            hint = hints[parameter.name]
            group = _group(parameter, hint)
            found += group or [_describe(parameter, hint, documented.get(parameter.name, ""))]
    return tuple(found)


def _group(parameter: inspect.Parameter, hint: Any) -> list[Parameter]:
    """Return the fields of a keyword that is a dataclass, each a parameter of its own; none for any other keyword."""
    if not is_dataclass(hint):
        return []
    hints, documented = get_type_hints(hint, include_extras=True), _documented(inspect.getdoc(hint) or "", "Attributes")
    members = [
        inspect.Parameter(item.name, parameter.kind, default=getattr(parameter.default, item.name))
        for item in fields_of(hint)
    ]
    return [_describe(member, hints[member.name], documented.get(member.name, "")) for member in members]


def arguments(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values as keywords of a method: those of a dataclass's fields as one such object."""
    found, hints = dict(values), get_type_hints(function)
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name)
        if parameter.kind is parameter.KEYWORD_ONLY and is_dataclass(hint) and isinstance(hint, type):
            found[parameter.name] = hint(**{item.name: found.pop(item.name) for item in fields_of(hint)})
    return found


def _describe(parameter: inspect.Parameter, hint: Any, doc: str) -> Parameter:
    required = parameter.default is parameter.empty
    fields: dict[str, Any] = {"default": None if required else parameter.default, "required": required, "doc": doc}
    _read_hint(hint, fields)
    if "type" not in fields:
        raise TypeError(f"Parameter {parameter.name!r} has annotation {hint!r}, which a recipe cannot express.")
    if isinstance(fields["default"], tuple):
        fields["default"] = list(fields["default"])
    return Parameter(parameter.name, **fields)


_TYPES: dict[Any, str] = {float: "number", int: "integer", bool: "boolean", str: "string"}


def _read_hint(hint: Any, fields: dict[str, Any]) -> None:
    """Read one annotation into `fields`, from the outside in."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *marks = get_args(hint)
        for mark in marks:
            if isinstance(mark, Range):
                fields["low"] = None if math.isinf(mark.low) else mark.low
                fields["high"] = None if math.isinf(mark.high) else mark.high
                fields["open"] = mark.open
            elif isinstance(mark, EachExpert):
                fields["per_expert"] = True
            elif isinstance(mark, InnerMethod):
                fields["type"] = "method"
        if fields.get("type") != "method":
            _read_hint(inner, fields)
    elif origin in (Union, types.UnionType):
        for option in get_args(hint):
            if option is type(None):
                fields["nullable"] = True
            elif not (fields.get("per_expert") and get_origin(option) is Sequence):
                _read_hint(option, fields)
    elif origin is Literal:
        fields["type"], fields["choices"] = "string", tuple(get_args(hint))
    elif origin in (Sequence, tuple, list):
        fields["type"] = "list"
    elif hint in _TYPES:
        fields["type"] = _TYPES[hint]


def _documented(docstring: str, section: str = "Args") -> dict[str, str]:
    """Return the text of each entry of a section of a Google docstring, on one line each."""
    match = re.search(rf"^{section}:\n(.*?)(?=^\S|\Z)", docstring, re.DOTALL | re.MULTILINE)
    if not match:
        return {}
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\S|\Z)", match[1], re.DOTALL | re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).strip() for name, text in entries}
