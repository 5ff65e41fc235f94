"""Small text files that appear whole or not at all."""

import contextlib
import os
from pathlib import Path

from fusionbench.weights.partial import settle, unwritable


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write `content` to `path` through a neighbouring file that is renamed when it is on disk, and return `path`.

    Raises:
        OutputError: where the folder cannot be made or written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)
        settle(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise unwritable(path, error) from error
    return path
