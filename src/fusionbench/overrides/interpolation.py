"""`${key}`: the value of another key of the recipe, and nothing else."""

import re
from collections.abc import Mapping
from typing import Any

from fusionbench.errors import ConfigError

MOST_ENTRIES, LONGEST_TEXT, LONGEST_CHAIN = 100_000, 100_000, 50
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_KEY = re.compile(r"\w[\w-]*(\.\w[\w-]*)*")
_MISSING = object()


def interpolate(document: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `document` in which each `${key}` is the value of that key.

    Args:
        document: a recipe's document, shorthands spelled out.
        defaults: values of the keys that the document leaves out.

    Raises:
        ConfigError: where a key does not exist, refers to itself, or `${…}` is not a plain key. Resolvers such as
            `${oc.env:TOKEN}` are refused: what they yield would be written into records.
    """
    reader = _Reader(document, defaults)
    return {key: reader.read(value, key) for key, value in document.items()}


class _Reader:
    def __init__(self, document: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.document, self.defaults = document, defaults
        self.entries = 0

    def read(self, value: Any, path: str, within: tuple[str, ...] = ()) -> Any:
        """Return `value`, found at `path`, without references; `within` holds the keys that are being resolved."""
        self.entries += 1
        if self.entries > MOST_ENTRIES:
            raise ConfigError(f"{path}: the recipe holds more than {MOST_ENTRIES} entries.")
        if isinstance(value, Mapping):
            return {key: self.read(item, f"{path}.{key}", within) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.read(item, f"{path}[{index}]", within) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole:
            return self._look_up(whole[1], path, within)
        return self._fill_in(value, path, within)

    def _fill_in(self, text: str, path: str, within: tuple[str, ...]) -> str:
        pieces, end = [], 0
        for match in _REFERENCE.finditer(text):
            found = self._look_up(match[1], path, within)
            if not isinstance(found, str | int | float):
                raise ConfigError(f"{path}: {match[0]} is {found!r}, which is no text to stand in {text!r}.")
            pieces += [text[end : match.start()], str(found).lower() if isinstance(found, bool) else str(found)]
            end = match.end()
        filled = "".join([*pieces, text[end:]])
        if "${" in filled or len(filled) > LONGEST_TEXT:
            raise ConfigError(f"{path}: {text[:80]!r} is not a text with ${{key}} in it; references do not nest.")
        return filled

    def _look_up(self, key: str, path: str, within: tuple[str, ...]) -> Any:
        if ":" in key:
            raise ConfigError(
                f"{path}: ${{{key}}} is a resolver, and resolvers are refused: their values, secrets among them, "
                "would be written into records. Only ${key} of this recipe is known."
            )
        if not _KEY.fullmatch(key):
            raise ConfigError(f"{path}: ${{{key}}} is not a key; write the whole key, such as ${{method.scale}}.")
        if key in within or len(within) == LONGEST_CHAIN:
            raise ConfigError(f"{path}: ${{{key}}} refers to itself ({' → '.join([*within, key])}).")
        value = _at(self.document, key)
        if value is _MISSING:
            value = _at(self.defaults, key)
        if value is _MISSING:
            raise ConfigError(f"{path}: there is no {key} in this recipe for ${{{key}}}.")
        return self.read(value, path, (*within, key))


def _at(document: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(document, Mapping) or part not in document:
            return _MISSING
        document = document[part]
    return document
