"""How fast inputs come from the disk where memory cannot hold them: measured on parts of the files. No torch here."""

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

from fusionbench.weights.headers import Source
from fusionbench.weights.jobs import in_order
from fusionbench.weights.safetensors import SafetensorsSource

PART = 1 << 25
"""Bytes that are read in one go; a multiple of every page's size."""
SECONDS = 0.5
"""After which no further part is read."""
PAGE = 1 << 12


class Part(NamedTuple):
    """Bytes of a file, from a page's first on."""

    path: Path
    start: int
    length: int


def available_memory() -> int | None:
    """Return the bytes of memory that files can be kept in, None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def cold_speed(sources: Sequence[Source], threads: int) -> float | None:
    """Return the bytes a second at which mapped files are read that are not in memory, in so many threads.

    Parts of all files are read, the same share of each, for about half a second; the system is asked to let go of them
    before. None where there is no local file, or no way to ask.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    parts = list(_parts([file.path for s in sources if isinstance(s, SafetensorsSource) for file in s.files]))
    started = perf_counter()

    def read(part: Part) -> int:
        return 0 if perf_counter() - started > SECONDS else _read(part)

    done = sum(in_order(read, parts, threads))
    return done / (perf_counter() - started) if done else None


def _parts(paths: Sequence[Path]) -> Iterator[Part]:
    """Yield the parts of all files, the first of each before the second of any: they may lie on several disks."""
    sizes = {path: path.stat().st_size for path in dict.fromkeys(paths)}
    for start in range(0, max(sizes.values(), default=0), PART):
        yield from (Part(path, start, min(PART, size - start)) for path, size in sizes.items() if start < size)


def _read(part: Part) -> int:
    """Read a part as a merge does, through a mapping; return its bytes."""
    with part.path.open("rb") as file:
        os.posix_fadvise(file.fileno(), part.start, part.length, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(file.fileno(), part.length, access=mmap.ACCESS_READ, offset=part.start) as mapped:
            # An entry of each page: the system reads whole pages, and some ahead.
            entries = np.frombuffer(mapped, np.uint8)[::PAGE].copy()
    return part.length if len(entries) else 0
