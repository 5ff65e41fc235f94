"""A command in a forked child that ends, as by SIGKILL or a cut of power, at its k-th touch of the disk."""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLED = 9
BROKEN = 1
EVENTS = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile", "os.truncate"})
WRITING = os.O_WRONLY | os.O_RDWR


class _Count:
    """Counts touches of the disk, and ends the process at one of them."""

    def __init__(self, last: int) -> None:
        self._left = last

    def touch(self) -> bool:
        """Count one more; return whether it is the last."""
        self._left -= 1
        return self._left == 0

    def watch(self) -> None:
        """Count opening for writing, renaming, removing, making folders, syncing and writing from now on."""
        sys.addaudithook(self._heard)
        fsync, pwrite = os.fsync, os.pwrite

        def dying_fsync(descriptor: int) -> None:
            if self.touch():
                os._exit(KILLED)
            fsync(descriptor)

        def dying_pwrite(descriptor: int, content: Any, offset: int) -> int:
            if self.touch():
                # Half of it is on disk.
                pwrite(descriptor, bytes(content)[: len(content) // 2], offset)
                os._exit(KILLED)
            return pwrite(descriptor, content, offset)

        os.fsync, os.pwrite = dying_fsync, dying_pwrite

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (writes or event in EVENTS) and self.touch():
            os._exit(KILLED)


def run_until(last: int, command: Callable[[], object]) -> int:
    """Run a command in a child that dies at its `last`-th touch of the disk; return the exit code, 0 where it lived."""
    child = os.fork()
    if child == 0:
        code = BROKEN
        try:
            _Count(last).watch()
            command()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in and below a folder, hidden ones apart; nothing where it is missing."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.name.startswith(".")
    }
