"""What the fields of a configuration may be, and how text becomes a value."""

import math
import re
from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from fusionbench.config.wording import worded
from fusionbench.errors import ConfigError

_DEVICE = r"^(auto|cpu|mps|cuda(:[0-9]+)?)$"
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class Config(BaseModel):
    """Base of every schema: an unknown key is an error, and what was built is never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, document: Any, where: str = "The recipe") -> Self:
        """Return the configuration that `document` describes.

        Raises:
            ConfigError: naming every wrong key and value at once.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            problems = "\n".join(f"  {line}" for line in worded(cls, error, document))
            raise ConfigError(f"{where} is wrong:\n{problems}", about=_method_of(error)) from None


def _method_of(error: ValidationError) -> str | None:
    """Return the method that the first problem with a method is about; None where there is none."""
    raised = [problem["ctx"]["error"] for problem in error.errors() if problem["type"] == "value_error"]
    causes = (each.__cause__ for each in raised)
    return next((cause.about for cause in causes if isinstance(cause, ConfigError) and cause.about), None)


def _read_whole(value: Any) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not number.is_integer():
        raise ValueError(f"expected a whole number, got {value!r}")
    return value if isinstance(value, int) else int(number)


def _read_bytes(value: Any) -> int:
    match = re.fullmatch(r"([\d.]+)\s*([kmgt]i?)?b?", str(value).strip().lower()) if isinstance(value, str) else None
    try:
        return round(float(match[1]) * _UNITS[match[2] or ""]) if match else _read_whole(value)
    except ValueError:
        raise ValueError(f"expected a number of bytes such as 2GB, 500MB or 1GiB, got {value!r}") from None


def _check_device(name: str) -> str:
    if not re.fullmatch(_DEVICE, name):
        raise ValueError(f"expected auto, cpu, mps, cuda or cuda:N, got {name!r}")
    return name


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    names = tuple(names)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated)} is there more than once")
    return names


WHOLE = BeforeValidator(_read_whole)
Count = Annotated[int, Field(ge=1), WHOLE]
Seed = Annotated[int, Field(ge=0, lt=2**63), WHOLE]
Bytes = Annotated[
    int,
    Field(ge=1),
    BeforeValidator(_read_bytes),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": r"^[0-9.]+ *([kKmMgGtT]i?)?[bB]?$"},
            ]
        }
    ),
]
Device = Annotated[str, AfterValidator(_check_device), WithJsonSchema({"type": "string", "pattern": _DEVICE})]
Text = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Text, ...], AfterValidator(_distinct)]
