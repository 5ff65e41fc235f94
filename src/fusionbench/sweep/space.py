"""What a search may change: keys of a recipe with the values they may take, written as overrides are.

method.scale=interval(0,1)          a number between both ends
method.learning_rate=log(1e-5,1e-2) a number, drawn on a logarithmic scale
method.examples=whole(16,256)       a whole number, both ends included
method.combine=sum,mean             one of these (range(…) and choice(…) too)
method.weights=each(0,1)            a number for each expert
method.scale=layers(0,1,4)          a gradient over depth with so many points
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fusionbench.errors import ConfigError
from fusionbench.overrides import parse

Kind = Literal["interval", "log", "whole", "each", "layers"]
_CALL = re.compile(r"([\w.+-]+)=(interval|log|whole|each|layers)\((.*)\)")
ARGUMENTS = {
    "interval": "low,high",
    "log": "low,high",
    "whole": "low,high",
    "each": "low,high",
    "layers": "low,high,points",
}
Suggest = Callable[[str, float, float, bool, bool], float]
"""From name, low, high, whole and logarithmic to a number."""
Choose = Callable[[str, Sequence[str]], str]
"""From name and the texts to choose from to one of them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A key that takes one of some values.

    Attributes:
        key: of the recipe, such as `method.combine`.
        values: as text.
    """

    key: str
    values: tuple[str, ...]

    def draw(self, number: Suggest, choose: Choose) -> str:  # noqa: ARG002
        """Return an override with one of the values."""
        return f"{self.key}={choose(self.key, self.values)}"


@dataclass(frozen=True, slots=True)
class Numbers:
    """A key that takes a number, or several.

    Attributes:
        key: of the recipe, such as `method.scale`.
        kind: how the text said it.
        low: the smallest number.
        high: the largest.
        count: how many numbers: 1, the points of a gradient, or the experts.
    """

    key: str
    kind: Kind
    low: float
    high: float
    count: int = 1

    def draw(self, number: Suggest, choose: Choose) -> str:  # noqa: ARG002
        """Return an override with numbers from the interval."""
        names = [self.key] if self.kind in ("interval", "log", "whole") else self.parts
        drawn = [number(name, self.low, self.high, self.kind == "whole", self.kind == "log") for name in names]
        texts = [repr(int(value) if self.kind == "whole" else float(value)) for value in drawn]
        if self.kind == "layers":
            return f"{self.key}=[{{value: [{','.join(texts)}]}}]"
        return f"{self.key}=[{','.join(texts)}]" if self.kind == "each" else f"{self.key}={texts[0]}"

    @property
    def parts(self) -> list[str]:
        """What the single numbers are called in the study."""
        return [f"{self.key}[{index}]" for index in range(self.count)]


Dimension = Choice | Numbers


def split(overrides: Sequence[str], experts: int) -> tuple[list[str], list[Dimension]]:
    """Return the overrides that are fixed, and the dimensions to search.

    Args:
        overrides: as they stand on the command line.
        experts: how many there are, for `each`.

    Raises:
        ConfigError: where a call has the wrong arguments, or nothing is to be searched.
    """
    fixed: list[str] = []
    space: list[Dimension] = []
    for text in overrides:
        if (call := _CALL.fullmatch(text)) is not None:
            space.append(_numbers(text, call[1], call[2], call[3].split(","), experts))
            continue
        override = parse(text)
        if override.sweeps:
            space.append(Choice(".".join(override.key), override.spelled))
        else:
            fixed.append(text)
    if not space:
        raise ConfigError(
            "There is nothing to search. Give a parameter values to choose from, such as method.scale=interval(0,1) or "
            "method.combine=sum,mean."
        )
    return fixed, space


def _numbers(text: str, key: str, kind: str, arguments: Sequence[str], experts: int) -> Numbers:
    wanted = ARGUMENTS[kind]
    try:
        low, high, *rest = (float(argument) for argument in arguments)
    except ValueError:
        raise ConfigError(f"{text!r}: write {kind}({wanted}) with numbers.") from None
    if len(arguments) != wanted.count(",") + 1:
        raise ConfigError(f"{text!r}: {kind} takes {wanted}.")
    if not low < high or (kind == "log" and low <= 0):
        raise ConfigError(f"{text!r}: the low end must be below the high end{', and above 0' * (kind == 'log')}.")
    if kind == "whole" and not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"{text!r}: both ends must be whole numbers.")
    if rest and not (rest[0].is_integer() and rest[0] >= 1):
        raise ConfigError(f"{text!r}: a gradient has a whole number of points, at least 1.")
    count = int(rest[0]) if rest else experts if kind == "each" else 1
    return Numbers(key, kind, low, high, count)  # type: ignore[arg-type]
