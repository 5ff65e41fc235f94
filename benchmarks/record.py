"""Records of measurements: what was run, when, at which commit, on which machine. Docs render figures from these."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def write_record(path: Path, values: dict[str, Any], arguments: Sequence[str] | None = None) -> None:
    """Write `values` with the command, the commit, the date and the machine.

    Args:
        path: of the record file.
        values: what was measured.
        arguments: of the command that measures all of it, where it was measured in several goes; default: the present
            ones.
    """
    record = {
        "command": " ".join(["python", *map(_relative, [sys.argv[0], *(arguments or sys.argv[1:])])]),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "values": values,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Return processor, cores, memory and versions."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _relative(argument: str) -> str:
    """Return an argument without the folders of this machine."""
    flag, equals, value = argument.partition("=")
    text = value if equals else flag
    short = f".../{Path(text).name}" if text.startswith("/") else text
    return f"{flag}={short}" if equals else short


def commit() -> str:
    """Return the short name of the commit that is measured."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
