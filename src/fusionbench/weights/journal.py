"""Which tensors of an unfinished checkpoint are on disk, so that the same command goes on from there. No torch here.

A text file of JSON lines: first what is being made, then names of tensors, each line written when their bytes are
on disk. A line that was cut short counts as not written.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

SYNC_BYTES = 1 << 30
"""Finished tensors are noted when they are so many bytes or so many seconds have gone by: that much is redone."""
SYNC_SECONDS = 5.0


def start_journal(path: Path, key: str) -> None:
    """Write a journal without tensors."""
    path.write_text(json.dumps({"key": key}) + "\n")


def read_journal(path: Path) -> tuple[str | None, frozenset[str]]:
    """Return what is being made, None where the file does not say, and the names of its tensors that are on disk."""
    key, finished = None, set[str]()
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict):
            continue
        key = entry.get("key", key)
        finished.update(entry.get("finished", ()))
    return key, frozenset(finished)


class Journal:
    """Counts the bytes of tensors as they are written, and notes those that are whole and on disk."""

    def __init__(
        self, path: Path, sizes: Mapping[str, int], finished: Collection[str], sync: Callable[[Collection[str]], None]
    ) -> None:
        """Go on with a journal.

        Args:
            path: of the file, which `start_journal` has written.
            sizes: bytes of each tensor.
            finished: those that are on disk already.
            sync: puts the bytes of some tensors on disk.
        """
        self.finished = set(finished)
        self._path, self._sync = path, sync
        self._left = {name: size for name, size in sizes.items() if name not in self.finished}
        self._sizes = sizes
        self._whole: list[str] = []
        self._bytes = 0
        self._noted = time.monotonic()
        self._lock = threading.Lock()

    def wrote(self, name: str, count: int) -> None:
        """Take note that some bytes of a tensor were handed to the system; safe from any thread."""
        with self._lock:
            self._left[name] -= count
            if self._left[name]:
                return
            self._whole.append(name)
            self._bytes += self._sizes[name]
            if self._bytes < SYNC_BYTES and time.monotonic() - self._noted < SYNC_SECONDS:
                return
            self._note()

    def note(self) -> None:
        """Put on disk, and note, every tensor that is whole."""
        with self._lock:
            self._note()

    def _note(self) -> None:
        names, self._whole, self._bytes = self._whole, [], 0
        if names:
            self._sync(names)
            with self._path.open("a") as file:
                # A line before it that was cut short ends here.
                file.write("\n" + json.dumps({"finished": names}) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self.finished.update(names)
        self._noted = time.monotonic()
