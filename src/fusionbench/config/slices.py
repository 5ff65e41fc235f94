"""Slices of a recipe: which layers of which models follow one another in the result."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from fusionbench.config.fields import WHOLE, Config, Text
from fusionbench.config.method import MethodConfig
from fusionbench.config.wording import unknown_key
from fusionbench.parameters import Parameter, read_value
from fusionbench.registry import methods

BASE = "base"
"""What a slice calls the recipe's base."""


def _numbers(value: Any) -> Any:
    """Return a value with its text read as numbers wherever it is one, so that 0.5 and "0.5" are one recipe."""
    if isinstance(value, Mapping):
        return {key: _text(item) if key == "filter" else _numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(item) for item in value]
    try:
        return value if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return value


def _text(value: Any) -> Any:
    return [str(item) for item in value] if isinstance(value, list | tuple) else str(value)


Layer = Annotated[int, Field(ge=0), WHOLE]
Numbers = Annotated[dict[str, Any], BeforeValidator(_numbers)]


class SliceSource(Config):
    """Consecutive layers of one model."""

    expert: Text = Field(description="the name of an expert, or base")
    layers: tuple[Layer, Layer] = Field(description="the first one, counted from 0, and the one after the last")
    parameters: Numbers = Field(
        {}, description="of the method, for this expert in this slice; they win over the slice's and the method's"
    )

    @property
    def length(self) -> int:
        """How many layers it has."""
        return self.layers[1] - self.layers[0]


class SliceConfig(Config):
    """Layers of the result, each fused of one layer of each source. Slices follow one another in the result."""

    sources: Annotated[tuple[SliceSource, ...], Field(min_length=1)]
    base: Text | None = Field(
        default=None, description="which of the sources is the base here; null: the one named base, if it is there"
    )
    parameters: Numbers = Field({}, description="of the method, in this slice; numbers and schedules only")

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        names = [source.expert for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        empty = [f"{s.expert} [{s.layers[0]}, {s.layers[1]}]" for s in self.sources if s.length < 1]
        if twice:
            raise ValueError(f"{', '.join(twice)} is there twice; a slice takes each model once.")
        if empty:
            raise ValueError(f"{', '.join(empty)} has no layer; layers are [first, one after the last].")
        if len({source.length for source in self.sources}) > 1:
            lengths = ", ".join(f"{source.expert} {source.length}" for source in self.sources)
            raise ValueError(f"all sources of a slice need the same number of layers; here {lengths}.")
        if self.base is not None and self.base not in names:
            raise ValueError(f"its base {self.base} is none of its sources {', '.join(names)}.")
        return self


def misfits(
    slices: Sequence[SliceConfig], experts: Sequence[str], base: str | None, method: MethodConfig
) -> Iterator[str]:
    """Yield one line for each model that the recipe does not name and each parameter that a slice cannot have."""
    known = [*([BASE] if base is not None else []), *experts]
    if len({*known}) < len(known):
        yield "experts.base: in a recipe with slices, base is the recipe's base; give the expert another name."
    parameters = {parameter.name: parameter for parameter in methods[method.name].parameters}
    for number, part in enumerate(slices):
        yield from _wrong(f"slices.{number}.parameters", part.parameters, parameters, method.name, each=False)
        for index, source in enumerate(part.sources):
            path = f"slices.{number}.sources.{index}"
            if source.expert not in known:
                yield f"{path}.expert: there is no {source.expert}; there are: {', '.join(known)}."
            yield from _wrong(f"{path}.parameters", source.parameters, parameters, method.name, each=True)


def _wrong(
    path: str, given: Mapping[str, Any], parameters: Mapping[str, Parameter], method: str, *, each: bool
) -> Iterator[str]:
    for key, value in given.items():
        parameter = parameters.get(key)
        if parameter is None:
            yield unknown_key(f"{path}.{key}", method, parameters)
        elif not parameter.scheduled:
            yield f"{path}.{key}: it holds for the whole model; set method.{key}."
        elif each and not parameter.per_expert:
            yield f"{path}.{key}: it is one number for all experts; move it to the slice's parameters."
        else:
            try:
                read_value(replace(parameter, per_expert=False), value)
            except ValueError as error:
                yield f"{path}.{key}: {error}"
