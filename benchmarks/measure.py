"""Measure whole processes: wall time, CPU time, peak of anonymous memory (what mapped files take is not counted)."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Figures(NamedTuple):
    """Seconds of wall clock and of CPU; peak anonymous and peak resident memory in MB."""

    wall: float
    cpu: float
    anonymous: float
    resident: float


def measure(command: Sequence[str], environment: dict[str, str] | None = None, log: Path | None = None) -> Figures:
    """Run a command to its end and return its figures.

    Raises:
        RuntimeError: where it fails, with the end of what it said.
    """
    target = log or Path(os.devnull)
    with target.open("wb") as output:
        started = time.perf_counter()
        # As installed by a user: Python keeps what it has compiled of the sources.
        ours = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**ours, **(environment or {})}
        )
        anonymous = 0.0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            anonymous = max(anonymous, _anonymous(process.pid))
            time.sleep(0.01)
        wall = time.perf_counter() - started
    if status:
        said = target.read_text(errors="replace")[-2000:] if log else ""
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by signal {-code} (9: often too little memory)" if code < 0 else f"failed with code {code}"
        resident = usage.ru_maxrss / 1000
        raise RuntimeError(f"{' '.join(command)} {how}, having held {resident:.0f} MB: {said}")
    return Figures(wall, usage.ru_utime + usage.ru_stime, anonymous, usage.ru_maxrss / 1000)


def _anonymous(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1000
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0.0
