"""Building something once: under a lock, in a folder that gets its name when it is whole, going on where it stopped."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from fusionbench.errors import Interrupted
from fusionbench.weights.partial import written_to

logger = logging.getLogger(__name__)
PARTIAL = ".partial"


def build_once(final: Path, make: Callable[[Path], None]) -> None:
    """Make a folder unless it is there.

    Args:
        final: the folder's name when it is whole.
        make: fills a working folder, which still holds what an interrupted call left there.

    Raises:
        Interrupted: on Ctrl-C; the working folder stays for the next call.
        OutputError: where the disk is full or the folder cannot be written.
    """
    if final.is_dir():
        return
    with written_to(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
    with _lock(final.with_name(final.name + ".lock")), written_to(final):
        if final.is_dir():
            return
        working = final.with_name(final.name + PARTIAL)
        working.mkdir(exist_ok=True)
        try:
            make(working)
        except KeyboardInterrupt:
            raise Interrupted(
                f"Stopped. What was finished is in {working}; the same command goes on from there."
            ) from None
        os.rename(working, final)


def stage(folder: Path, make: Callable[[Path], None]) -> None:
    """Make one part of a build unless it is there; a part that was begun is made anew."""
    if folder.is_dir():
        return
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    make(partial)
    os.rename(partial, folder)


def _lock(path: Path) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("%s is being built by another process; waiting for it.", path.stem)
    return lock
