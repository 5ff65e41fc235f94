"""The record files of docs/results: what was measured, and by which command, when and where."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def read(name: str) -> dict[str, Any]:
    """Return a record."""
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return record


def origin(record: dict[str, Any]) -> str:
    """Return where the figures of a record come from."""
    machine = record["machine"]
    return f"`{record['command']}`, {record['date']}, commit {record['commit']}, {machine['cores']} cores."
