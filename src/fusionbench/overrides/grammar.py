"""One override, from text to key and values."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal, TypeAlias

from fusionbench.errors import ConfigError

Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"
Action = Literal["set", "add", "force", "delete"]
ACTIONS: dict[str, Action] = {"": "set", "+": "add", "++": "force", "~": "delete"}
REFUSED_CALLS = ("glob", "interval", "sort", "shuffle", "tag", "extend_list", "int", "float", "str", "bool", "json_str")
MOST_NESTED, MOST_VALUES, MOST_RUNS, MOST_DIGITS = 32, 10_000, 1_000_000, 12
_PARTS = re.compile(r"(\+\+|\+|~)?([^=]*)(=)?(.*)", re.DOTALL)
_KEY = re.compile(r"\w[\w-]*(\.\w[\w-]*)*")
_PIECE = re.compile(r"\$\{[^{}]*\}|\\([\\()\[\]{}:=, \t])|[^\[\]{}()\"']")


@dataclass(frozen=True, slots=True)
class Override:
    """One override, read."""

    text: str
    action: Action
    key: tuple[str, ...]
    values: tuple[Value, ...]
    """One value; several for a sweep; none for `~key`."""
    spelled: tuple[str, ...]
    """The text of each value."""
    sweeps: bool = False


def parse(text: str) -> Override:
    """Read one override.

    Raises:
        ConfigError: with the text, what is wrong in it, and what to write.
    """
    match = _PARTS.fullmatch(text)
    assert match is not None  # every text has these parts
    prefix, key, equals, rest = match.groups()
    action = ACTIONS[prefix or ""]
    if not equals and action != "delete":
        raise ConfigError(f"{text!r} is not an override: write key=value (or ~key to remove a key).")
    if problem := _problem_of_key(key):
        raise ConfigError(f"{text!r}: {problem}")
    if not equals:
        return Override(text, action, tuple(key.split(".")), (), ())
    try:
        elements, sweeps = _Scanner(rest).read()
    except ConfigError as error:
        raise ConfigError(f"{text!r}: {error}") from None
    if action == "delete" and sweeps:
        raise ConfigError(f"{text!r}: a key is removed once, so it takes one value.")
    values, spelled = zip(*elements, strict=True)
    return Override(text, action, tuple(key.split(".")), values, spelled, sweeps)


def _problem_of_key(key: str) -> str:
    parts = key.split(".")
    if parts[0] == "hydra":
        return "there is no Hydra behind this command line, so no setting of Hydra's."
    if "_target_" in parts:
        return "nothing is built from a class path; name what is registered, such as method=ties."
    if "@" in key:
        return "packages (key@package) are not supported; write the whole key, such as method.scale."
    if "/" in key:
        return "a key has dots, not slashes; a preset is a value, such as method=ties/fusion_bench."
    return "" if _KEY.fullmatch(key) else f"{key!r} is not a key; keys are words joined by dots, such as method.scale."


class _Scanner:
    """Reads the values of one override, left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def read(self) -> tuple[list[tuple[Value, str]], bool]:
        """Return each value with its own text, and whether they are to be swept over."""
        call = re.match(r"\s*(\w+)\s*\(", self.text)
        if call:
            self.at = call.end()
            return self._call(call[1]), True
        if not self.text.strip():
            return [("", "")], False
        elements = self._elements("")
        return elements, len(elements) > 1

    def _call(self, name: str) -> list[tuple[Value, str]]:
        if name not in ("range", "choice"):
            known = "is not supported" if name in REFUSED_CALLS else "is not a function"
            raise ConfigError(f"{name}() {known}; there are range(…) and choice(…). Quote the value if it is text.")
        arguments = [] if self._skip(")") else self._elements(")")
        self._end()
        if name == "range":
            return [(text, text) for text in _range([text for _, text in arguments])]
        if not arguments:
            raise ConfigError("choice() holds no value.")
        return arguments

    def _elements(self, closing: str) -> list[tuple[Value, str]]:
        """Return the elements up to `closing` (the end of the text where it is empty), with their texts."""
        elements = []
        while True:
            start = self.at
            value = self._element(f",{closing}")
            elements.append((value, self.text[start : self.at].strip()))
            if self._skip(","):
                continue
            if not closing:
                self._end()
            elif not self._skip(closing):
                raise ConfigError(f"expected {closing!r} {self._where()}.")
            return elements

    def _element(self, stops: str) -> Value:
        self._space()
        character = self.text[self.at : self.at + 1]
        if character in ("'", '"'):
            return self._quoted(character)
        if character not in ("[", "{"):
            text = self._bare(stops)
            return None if text.lower() == "null" else text
        self.at, self.depth = self.at + 1, self.depth + 1
        if self.depth > MOST_NESTED:
            raise ConfigError(f"brackets are nested deeper than {MOST_NESTED}.")
        value: Value
        if character == "[":
            value = [] if self._skip("]") else [element for element, _ in self._elements("]")]
        else:
            value = {} if self._skip("}") else self._pairs()
        self.depth -= 1
        return value

    def _pairs(self) -> dict[str, Value]:
        pairs: dict[str, Value] = {}
        while True:
            self._space()
            character = self.text[self.at : self.at + 1]
            key = self._quoted(character) if character in ("'", '"') else self._bare(":,}")
            if not self._skip(":"):
                raise ConfigError(f"a mapping is written {{key: value}}; expected ':' {self._where()}.")
            if key in pairs:
                raise ConfigError(f"the mapping has the key {key!r} twice.")
            pairs[key] = self._element(",}")
            if self._skip(","):
                continue
            if not self._skip("}"):
                raise ConfigError(f"expected '}}' {self._where()}.")
            return pairs

    def _quoted(self, quote: str) -> str:
        """Read text in quotes; a backslash is itself, but before a quote it escapes."""
        pieces, start = [], self.at + 1
        for match in re.compile(rf"(\\*){quote}").finditer(self.text, start):
            backslashes = len(match[1])
            pieces += [self.text[start : match.start()], "\\" * (backslashes // 2)]
            start = self.at = match.end()
            if backslashes % 2 == 0:
                return "".join(pieces)
            pieces.append(quote)
        raise ConfigError(f"the quote {quote} is never closed.")

    def _bare(self, stops: str) -> str:
        r"""Read text without quotes up to one of `stops`: `${key}` whole, and `\,` and its like as the character."""
        pieces = []
        while self.at < len(self.text) and self.text[self.at] not in stops:
            match = _PIECE.match(self.text, self.at)
            if match is None:
                raise ConfigError(
                    f"{self.text[self.at]!r} cannot stand {self._where()}; quote the value if it is text."
                )
            pieces.append((match[0], match[1]))
            self.at = match.end()
        text = "".join(escaped or whole for whole, escaped in pieces).strip()
        if not text:
            raise ConfigError(f"a value is missing {self._where()}.")
        return text

    def _where(self) -> str:
        return f"at {self.text[self.at :]!r}" if self.at < len(self.text) else "at the end"

    def _space(self) -> None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def _skip(self, character: str) -> bool:
        self._space()
        found = self.text.startswith(character, self.at)
        self.at += found
        return found

    def _end(self) -> None:
        self._space()
        if self.at < len(self.text):
            raise ConfigError(
                f"{self.text[self.at :]!r} follows a value that has ended; quote the value if it is text."
            )


def _range(arguments: Sequence[str]) -> list[str]:
    """Return the numbers from start to before stop, exact in decimals."""
    names = ["start", "stop", "step"] if len(arguments) > 1 else ["stop"]
    given = {"start": Decimal(0), "step": Decimal(1)}
    for position, argument in enumerate(arguments):
        name, equals, text = argument.rpartition("=")
        name = name.strip() if equals else names[position] if position < len(names) else ""
        number = _decimal(text)
        if name not in ("start", "stop", "step") or number is None:
            raise ConfigError(f"range(start, stop, step) takes three numbers below 10^{MOST_DIGITS}; got {argument!r}.")
        given[name] = number
    if "stop" not in given or not given["step"]:
        raise ConfigError("range(start, stop, step) needs a stop, and a step that is not 0.")
    count = math.ceil((given["stop"] - given["start"]) / given["step"])
    if not 0 < count <= MOST_VALUES:
        raise ConfigError(f"range holds {max(count, 0)} values; 1 to {MOST_VALUES} are allowed.")
    return [format(given["start"] + index * given["step"], "f") for index in range(count)]


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return None
    if number.is_zero():
        return Decimal(0)
    return number if number.is_finite() and abs(number.adjusted()) <= MOST_DIGITS else None


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each run: the product of all that hold several values, the last one changing fastest.

    Raises:
        ConfigError: where one cannot be read, or there are more than a million runs.
    """
    choices = [_each(parse(text)) for text in overrides]
    runs = math.prod(len(choice) for choice in choices)
    if runs > MOST_RUNS:
        raise ConfigError(f"The sweep has {runs} runs; at most {MOST_RUNS} are allowed.")
    return [list(run) for run in itertools.product(*choices)]


def _each(override: Override) -> list[str]:
    if not override.sweeps:
        return [override.text]
    head = override.text[: override.text.index("=")]
    return [f"{head}={spelled}" for spelled in override.spelled]
