"""Hold what is on disk against what was written: `--verify`. No torch here."""

import os
import threading
from collections.abc import Iterator
from typing import NamedTuple, Protocol
from zlib import crc32

from fusionbench.errors import OutputError

READ_BYTES = 1 << 22


class StoredPart(NamedTuple):
    """Bytes of a file."""

    descriptor: int
    offset: int
    length: int


class Store(Protocol):
    """A checkpoint in the making, or one file of it, that knows where it puts what."""

    def write(self, name: str, content: memoryview, start: int = 0) -> None:
        """Put the bytes of flat entries from `start` on into place."""
        ...

    def place_of(self, name: str, start: int, count: int) -> StoredPart:
        """Return where so many bytes of a tensor's flat entries from `start` on are."""
        ...


class ReadBack:
    """A sink that remembers a checksum (CRC-32) of all it is given, and can hold it against the disk."""

    def __init__(self, store: Store) -> None:
        """Write to `store`."""
        self._store = store
        self._sums: dict[tuple[str, int], tuple[int, int]] = {}
        self._lock = threading.Lock()

    def write(self, name: str, content: memoryview, start: int = 0) -> None:
        """Put the bytes of flat entries from `start` on into place; safe from any thread."""
        self._store.write(name, content, start)
        found = memoryview(content).nbytes, crc32(content)
        with self._lock:
            self._sums[name, start] = found

    def compare(self) -> None:
        """Read all of it again, from the disk where the system can be told to forget what it holds of the files.

        Raises:
            OutputError: naming the first tensor whose bytes are others than those that were written.
        """
        parts = {key: self._store.place_of(*key, count) for key, (count, _) in self._sums.items()}
        for descriptor in {part.descriptor for part in parts.values()}:
            os.fsync(descriptor)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        for (name, start), part in parts.items():
            found = 0
            for block in _blocks(part):
                found = crc32(block, found)
            if found != self._sums[name, start][1]:
                raise OutputError(
                    f"{name} was written, but other bytes are read back from entry {start:,} on: the disk or its "
                    "connection is at fault. Choose another --out."
                )


def _blocks(part: StoredPart) -> Iterator[bytes]:
    place, end = part.offset, part.offset + part.length
    while place < end and (block := os.pread(part.descriptor, min(READ_BYTES, end - place), place)):
        yield block
        place += len(block)
