"""JSON files beside a model's tensors, which somebody else may have written. No torch here."""

import json
from pathlib import Path
from typing import Any

LIMIT = 100_000_000
"""Bytes of such a file; an index of a million tensors has as many."""


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        ValueError: where it is no JSON, cannot be read, or is so large that reading it would fill the memory; the
            message says which.
    """
    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise ValueError(f"it has {size:,} bytes, of at most {LIMIT:,} that are read")
        return json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, MemoryError) as error:
        raise ValueError(f"it is nested or large beyond reason ({type(error).__name__})") from None
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None
