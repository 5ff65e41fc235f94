"""What the tasks of a suite of the user's own are made of, as one digest: the description, and the files it names."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from fusionbench.suites.model import Suite

BLOCKS, BLOCK_BYTES = 64, 65536
"""Of a large file so many evenly spaced blocks are read, as of a checkpoint."""


def digest_of_tasks(suite: Suite) -> str:
    """Return `tasks:` and a SHA-256 over the suite's tasks, who was trained on which, and the data that lie here.

    Local files count by name, size and 64 blocks of 64 KiB; data sets of the hub by their id and revision.
    """
    hasher = hashlib.sha256()
    described = {
        "tasks": suite.tasks.model_dump(mode="json"),
        "unseen": list(suite.unseen),
        "own": {name: suite.pool.task_of(name, suite.tasks.tasks) for name in suite.pool.experts},
    }
    hasher.update(json.dumps(described, sort_keys=True).encode())
    for task in suite.tasks.tasks.values():
        dataset = task.get("dataset")
        for file in _files(Path(str(dataset)).expanduser()) if dataset else ():
            _add(hasher, file)
    return f"tasks:{hasher.hexdigest()}"


def digest_of_files(place: Path) -> str:
    """Return a SHA-256 over a file, or the files of a folder: names, sizes and 64 blocks of 64 KiB of each."""
    hasher = hashlib.sha256()
    for file in _files(place):
        _add(hasher, file)
    return hasher.hexdigest()


def _files(place: Path) -> Iterator[Path]:
    """Yield the files of a data set that lies here, in order of their names."""
    if place.is_file():
        yield place
    elif place.is_dir():
        yield from sorted(path for path in place.rglob("*") if path.is_file())


def _add(hasher: "hashlib._Hash", file: Path) -> None:
    size = file.stat().st_size
    hasher.update(f"{file.name} {size}\n".encode())
    step = max(BLOCK_BYTES, size // BLOCKS)
    with file.open("rb") as content:
        for place in range(0, size, step):
            content.seek(place)
            hasher.update(content.read(BLOCK_BYTES))
