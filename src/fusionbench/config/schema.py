"""The JSON schema of recipes, for editors: the fields, their short forms, and every registered method's parameters."""

from collections.abc import Iterable
from typing import Any

from fusionbench.config.recipe import Recipe
from fusionbench.parameters import Parameter
from fusionbench.registry import Entry, methods

JSON = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE: JSON = {"$ref": "#/$defs/Reference"}
_METHOD: JSON = {"$ref": "#/$defs/MethodConfig"}


def recipe_schema(entries: Iterable[Entry] | None = None) -> JSON:
    """Return the JSON schema of a recipe.

    Args:
        entries: the methods to describe; None for all that are registered.
    """
    schema = Recipe.model_json_schema()
    definitions: JSON = schema["$defs"]
    for fields in (schema, *definitions.values()):
        fields["properties"] = {name: _or_reference(field) for name, field in fields.get("properties", {}).items()}
    described = {e.name: _method(e) for e in (entries if entries is not None else (methods[name] for name in methods))}
    definitions["MethodConfig"] = (
        {"oneOf": [{"$ref": f"#/$defs/method:{name}"} for name in described]}
        if described
        else {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    )
    definitions |= {f"method:{name}": description for name, description in described.items()}
    definitions["Reference"] = {
        "type": "string",
        "pattern": r"\$\{",
        "description": "the value of another key: ${seed}",
    }
    _allow_short_forms(schema["properties"])
    return {"$schema": DIALECT, **schema, "title": "fusionbench recipe"}


def _allow_short_forms(properties: JSON) -> None:
    text, names = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
    properties["suite"]["anyOf"].insert(0, text)
    properties["method"] = {
        "anyOf": [text, _METHOD],
        "description": "a method, or a named variant such as ties/fusion_bench",
    }
    properties["tasks"] = {"anyOf": [names, {"$ref": "#/$defs/TasksConfig"}]}
    properties["experts"]["additionalProperties"] = {"anyOf": [text, properties["experts"]["additionalProperties"]]}


def _or_reference(field: JSON) -> JSON:
    """Return the schema of a field that may also be `${key}`, where text is not allowed anyway."""
    if field.get("type") in ("integer", "number", "boolean", "array") or ("enum" in field or "pattern" in field):
        notes = ("default", "description", "title")
        value = {key: item for key, item in field.items() if key not in notes}
        return {"anyOf": [value, _REFERENCE], **{key: field[key] for key in notes if key in field}}
    if all("$ref" not in option for option in field.get("anyOf", [{"$ref": ""}])):
        return {**field, "anyOf": [*field["anyOf"], _REFERENCE]}
    return field


def _method(entry: Entry) -> JSON:
    peers = [None, *dict.fromkeys(("paper", *(entry.compat or {})))]
    return {
        "type": "object",
        "description": entry.summary,
        "additionalProperties": False,
        "required": ["name", *(p.name for p in entry.parameters if p.required)],
        "properties": {
            "name": {"type": "string", "pattern": f"^{entry.name}(/.+)?$"},
            "compat": {"enum": peers, "description": "whose arithmetic, where implementations differ"},
            **{parameter.name: _parameter(parameter) for parameter in entry.parameters},
        },
    }


def _parameter(parameter: Parameter) -> JSON:
    one = _one(parameter)
    forms = [one, _REFERENCE]
    if parameter.nullable:
        forms.append({"type": "null"})
    alone = [one, _schedule(one)] if parameter.scheduled else [one]
    forms += alone[1:]
    if parameter.per_expert:
        each = {"anyOf": alone}
        forms += [{"type": "array", "items": each}, {"type": "object", "additionalProperties": each}]
    schema: JSON = {"anyOf": forms, "description": parameter.doc}
    return schema if parameter.required else {**schema, "default": parameter.default}


def _schedule(one: JSON) -> JSON:
    """Return the schema of a list of values by tensor name; a list among the values is a gradient over depth."""
    value = {"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]}
    entry = {"type": "object", "required": ["value"], "properties": {"value": value, "filter": _FILTER}}
    return {"type": "array", "minItems": 1, "items": {**entry, "additionalProperties": False}}


_FILTER: JSON = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
"""A part of a tensor's name, or several that must all be in it."""


def _one(parameter: Parameter) -> JSON:
    """Return the schema of one value."""
    if parameter.type == "method":
        return {"anyOf": [{"type": "string"}, _METHOD]}
    if parameter.type == "list":
        return {"type": "array"}
    if parameter.choices:
        return {"enum": list(parameter.choices)}
    schema: JSON = {"type": parameter.type}
    if parameter.low is not None:
        schema["exclusiveMinimum" if parameter.open in ("left", "both") else "minimum"] = parameter.low
    if parameter.high is not None:
        schema["exclusiveMaximum" if parameter.open in ("right", "both") else "maximum"] = parameter.high
    return schema
