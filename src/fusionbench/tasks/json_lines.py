"""Files of JSON lines: an object a line. No torch here."""

import json
from pathlib import Path
from typing import Any

from fusionbench.errors import ConfigError, MissingData


def read_objects(path: Path) -> dict[int, dict[str, Any]]:
    """Return the objects of a file by the numbers of their lines, in order; empty lines are passed over.

    Line feeds alone end lines: strings in JSON may hold Unicode's other line breaks as they are.

    Raises:
        MissingData: where the file cannot be read.
        ConfigError: where a line is no JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise MissingData(f"{path} cannot be read: {error}.") from None
    return {number: _object(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()}


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        held = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"Line {number} of {path} is not JSON: {error}.") from None
    if not isinstance(held, dict):
        raise ConfigError(f"Line {number} of {path} should hold a JSON object, it holds a {type(held).__name__}.")
    return held
