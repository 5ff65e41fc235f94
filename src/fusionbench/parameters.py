"""What a method's parameter may be: its type, its range, and whether each expert may have its own value.

A parameter is written once, as an annotated keyword of the method's function; `signatures.describe` reads it, the
index keeps the description, and `check` holds a recipe's value against it without importing the method.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fusionbench.errors import ConfigError

T = TypeVar("T")
JSON = Any
INJECTED = frozenset({"site", "prepared", "stats"})
"""Keywords that the engine gives to a method; they are not in the schema."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number; `open` names the ends that are excluded: "", "left", "right" or "both"."""

    low: float = -math.inf
    high: float = math.inf
    open: Literal["", "left", "right", "both"] = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open in ("left", "both") else value >= self.low
        below = value < self.high if self.open in ("right", "both") else value <= self.high
        return above and below

    def __str__(self) -> str:
        left = "(" if self.open in ("left", "both") or math.isinf(self.low) else "["
        right = ")" if self.open in ("right", "both") or math.isinf(self.high) else "]"
        low = "-inf" if math.isinf(self.low) else f"{self.low:g}"
        return f"{left}{low}, {'inf' if math.isinf(self.high) else f'{self.high:g}'}{right}"


@dataclass(frozen=True, slots=True)
class EachExpert:
    """Marks a parameter that may have one value an expert."""


@dataclass(frozen=True, slots=True)
class InnerMethod:
    """Marks a parameter that is itself a method with parameters: `{name: ties, density: 0.2}`."""


Density = Annotated[float, Range(0, 1, open="left")]
Share = Annotated[float, Range(0, 1)]
Scale = Annotated[float, Range()]
Positive = Annotated[float, Range(0, open="left")]
Count = Annotated[int, Range(1)]
StepCount = Annotated[int, Range(0)]
PerExpert = Annotated[T | Sequence[T], EachExpert()]
Inner = Annotated[Mapping[str, Any], InnerMethod()]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One keyword of a method, as the index keeps it."""

    name: str
    type: Literal["number", "integer", "boolean", "string", "method", "list"]
    default: JSON = None
    required: bool = False
    nullable: bool = False
    per_expert: bool = False
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    open: Literal["", "left", "right", "both"] = ""
    doc: str = ""

    @property
    def scheduled(self) -> bool:
        """Whether it may differ from tensor to tensor; choices and switches hold for the whole model."""
        return self.type in ("number", "integer")

    @property
    def range(self) -> Range:
        """Bounds of the value, infinite where there are none."""
        low = -math.inf if self.low is None else self.low
        return Range(low, math.inf if self.high is None else self.high, self.open)


def check(owner: str, parameters: Sequence[Parameter], given: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return every parameter's value: those given, checked against type and range, and the defaults of the rest.

    Args:
        owner: the method's name, for messages.
        parameters: its descriptions.
        given: values by name; text is read by the parameter's own type, so `1e-4` is a number.

    Raises:
        ConfigError: naming every unknown key, missing value, wrong type and value out of range at once.
    """
    known = {parameter.name: parameter for parameter in parameters}
    problems = [_unknown(owner, key, known) for key in given if key not in known]
    values: dict[str, JSON] = {}
    for name, parameter in known.items():
        if name not in given:
            if parameter.required:
                problems.append(f"method.{name}: {owner} needs a value for it. {parameter.doc}".rstrip())
            values[name] = parameter.default
            continue
        try:
            values[name] = read_value(parameter, given[name])
        except ValueError as error:
            problems.append(f"method.{name}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return values


def _unknown(owner: str, key: str, known: Mapping[str, Parameter]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    has = f"It has: {', '.join(known)}" if known else "It has none"
    return f"method.{key}: not a parameter of {owner}.{hint} {has}."


def read_value(parameter: Parameter, value: JSON) -> JSON:
    """Return `value` as `parameter` takes it: one value, or one a expert as a list, a mapping or a layer schedule.

    Raises:
        ValueError: with what was expected.
    """
    if value is None and parameter.nullable:
        return None
    if is_schedule(value):
        return _read_schedule(parameter, value)
    if parameter.per_expert and isinstance(value, Mapping):
        return {
            str(name): _read_schedule(parameter, item) if is_schedule(item) else _read_one(parameter, item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple) and parameter.type not in ("list", "method"):
        if not parameter.per_expert:
            raise ValueError(f"expected one {parameter.type}, got the list {list(value)}. To sweep over values add -m.")
        return [_read_schedule(parameter, item) if is_schedule(item) else _read_one(parameter, item) for item in value]
    return _read_one(parameter, value)


def _read_schedule(parameter: Parameter, entries: Sequence[Mapping[str, JSON]]) -> list[dict[str, JSON]]:
    """Return a schedule's entries, each with one value, or a gradient over depth as a list."""
    if not parameter.scheduled:
        raise ValueError(f"expected one {parameter.type}: only numbers may differ from tensor to tensor.")
    read: list[dict[str, JSON]] = []
    for entry in entries:
        value = entry["value"]
        if isinstance(value, list | tuple):
            if not value:
                raise ValueError("a gradient over depth needs a value at least, got [].")
            value = [_read_one(parameter, item) for item in value]
        else:
            value = _read_one(parameter, value)
        read.append({**entry, "value": value})
    return read


def is_schedule(value: JSON) -> bool:
    """Tell whether `value` is a list of `{value, filter?}` entries, which the plan resolves for each tensor.

    A filter is a part of the tensor's name, or a list of parts that must all be in it.
    """
    return (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(v, Mapping) and "value" in v for v in value)
    )


def _read_one(parameter: Parameter, value: JSON) -> JSON:
    if parameter.type == "method":
        if isinstance(value, str):
            value = {"name": value}
        if not (isinstance(value, Mapping) and "name" in value):
            raise ValueError(f"expected a method such as {{name: ties, density: 0.2}}, got {value!r}")
        return dict(value)
    if parameter.type == "list":
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list such as [0.2, 0.8], got {value!r}")
        return list(value)
    if parameter.type == "boolean":
        return _read_boolean(value)
    if parameter.type == "string":
        if parameter.choices and value not in parameter.choices:
            raise ValueError(f"expected one of {', '.join(parameter.choices)}; got {value!r}")
        if value is None or isinstance(value, Mapping):
            raise ValueError(f"expected text, got {value!r}")
        return str(value)
    return _read_number(parameter, value)


def _read_boolean(value: JSON) -> bool:
    words = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError(f"expected true or false, got {value!r}")


def _read_number(parameter: Parameter, value: JSON) -> float | int:
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    whole = parameter.type == "integer"
    if math.isnan(number) or (whole and not (math.isfinite(number) and number == int(number))):
        raise ValueError(f"expected {'a whole number' if whole else 'a number'}, got {value!r}")
    if math.isinf(number):
        raise ValueError(f"{value} is not finite; its range is {parameter.range}. {parameter.doc}".rstrip())
    if number not in parameter.range:
        raise ValueError(f"{value} is outside its range {parameter.range}. {parameter.doc}".rstrip())
    return int(number) if whole else number


def per_expert(value: T | Sequence[T], count: int) -> tuple[T, ...]:
    """Return one value an expert: a single value is repeated, a sequence must have `count` entries.

    Raises:
        ConfigError: where the lengths differ.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (value,) * count
    if len(value) != count:
        raise ConfigError(
            f"Got {len(value)} values for {count} experts: {list(value)}. Give one value, or one an expert."
        )
    return tuple(value)
