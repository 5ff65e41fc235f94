"""Write a checkpoint so that it appears whole or not at all. No torch here.

All shapes are known from the plan, so headers are written first, the space is taken at once (a full disk shows in the
first second), tensors are put in their place in any order by any thread, and the folder is renamed when all is on disk.
"""

import errno
import fcntl
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from fusionbench.errors import OutputError
from fusionbench.weights.headers import ITEM_BYTES, TensorSpec

PARTIAL = ".partial"
SHARD_BYTES = 5_000_000_000
REFUSALS = frozenset({
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG,
    errno.EFBIG,
})  # fmt: skip
"""The operating system's words for a place that cannot be written to, other than that it is full."""


class _Place(NamedTuple):
    file: int
    offset: int


class CheckpointWriter:
    """A folder of safetensors in the making; use as a context manager.

    On a clean exit the folder takes its final name; on an exception nothing is left.
    """

    def __init__(
        self,
        folder: Path,
        specs: Sequence[TensorSpec],
        *,
        metadata: Mapping[str, str],
        shard_bytes: int = SHARD_BYTES,
        finish: Callable[[Path], None] | None = None,
    ) -> None:
        """Lay out the files; nothing is written before the context is entered.

        Args:
            folder: final name; must not exist.
            specs: the tensors, in the order of the files.
            metadata: free-form text that every file's header carries; the recipe is in it.
            shard_bytes: bytes of tensors a file holds at most, if more than one tensor is in it.
            finish: writes the other files of the folder (configuration, tokenizer) before it is renamed.
        """
        self.folder = folder
        self.partial = folder.parent / (folder.name + PARTIAL)
        self._finish = finish
        self._shards = list(_split(specs, shard_bytes))
        self._metadata = {"format": "pt", **metadata}
        self._descriptors: list[int] = []
        self._lock: int | None = None
        self._places: dict[str, _Place] = {}
        self._items = {spec.name: ITEM_BYTES[spec.dtype] for spec in specs}

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for shard in self._shards for spec in shard)

    def __enter__(self) -> "CheckpointWriter":
        with written_to(self.folder):
            if self.folder.exists():
                raise OutputError(f"{self.folder} exists; nothing is written over. Choose another folder or remove it.")
            if self.partial.exists():
                # Of a writer that was killed, or of one that is at work.
                leftover = self._locked()
                shutil.rmtree(self.partial, ignore_errors=True)
                os.close(leftover)
            self.partial.mkdir(parents=True)
            self._lock = self._locked()
            try:
                self._create_files()
            except BaseException:
                self._discard()
                raise
        return self

    def _locked(self) -> int:
        """Return a descriptor that holds the folder for this process until it is closed, or the process ends."""
        descriptor = os.open(self.partial, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OutputError(
                f"{self.folder} is being written by another process. Wait for it, or choose another folder."
            ) from None
        except OSError:
            # Not every file system has locks.
            pass
        return descriptor

    def _create_files(self) -> None:
        free = shutil.disk_usage(self.partial).free
        if free < self.total_bytes:
            raise OutputError(
                f"{self.folder} needs {self.total_bytes:,} bytes, {free:,} are free there. Nothing was written."
            )
        for number, shard in enumerate(self._shards):
            header = _header(shard, self._metadata)
            descriptor = os.open(self.partial / self._file_name(number), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            self._descriptors.append(descriptor)
            size = len(header) + sum(spec.nbytes for spec in shard)
            os.posix_fallocate(descriptor, 0, size) if hasattr(os, "posix_fallocate") else os.ftruncate(
                descriptor, size
            )
            _put(descriptor, header, 0)
            place = len(header)
            for spec in shard:
                self._places[spec.name] = _Place(number, place)
                place += spec.nbytes

    def _file_name(self, number: int) -> str:
        if len(self._shards) == 1:
            return "model.safetensors"
        return f"model-{number + 1:05d}-of-{len(self._shards):05d}.safetensors"

    def write(self, name: str, content: memoryview | bytes, start: int = 0) -> None:
        """Put the bytes of a tensor's flat entries from `start` on into place; safe from any thread."""
        place = self._places[name]
        offset = place.offset + start * self._items[name]
        with written_to(self.folder):
            _put(self._descriptors[place.file], content, offset)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            with written_to(self.folder):
                self._complete()
        except BaseException:
            self._discard()
            raise

    def _complete(self) -> None:
        if len(self._shards) > 1:
            names = {s.name: self._file_name(n) for n, shard in enumerate(self._shards) for s in shard}
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": names}
            (self.partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
        if self._finish is not None:
            self._finish(self.partial)
        for descriptor in self._descriptors:
            os.fsync(descriptor)
        os.rename(self.partial, self.folder)
        self._close()
        _sync_folder(self.folder.parent)

    def _close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _discard(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
        self._close()


def _put(descriptor: int, content: memoryview | bytes, offset: int) -> None:
    """Write all bytes; the system may take fewer at a time."""
    left = memoryview(content).cast("B")
    while left:
        done = os.pwrite(descriptor, left, offset)
        left, offset = left[done:], offset + done


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals into errors that name the folder and the fix.

    Raises:
        OutputError: on a full disk, a folder that cannot be written, or a quota.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"The disk of {folder} is full. Free some space or choose another folder.") from None
        if error.errno in REFUSALS:
            raise OutputError(f"{folder} cannot be written: {error.strerror}. Choose another folder.") from None
        raise


def _split(specs: Sequence[TensorSpec], shard_bytes: int) -> Iterator[list[TensorSpec]]:
    shard: list[TensorSpec] = []
    size = 0
    for spec in specs:
        if shard and size + spec.nbytes > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(spec)
        size += spec.nbytes
    yield shard


def _header(shard: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, object] = {"__metadata__": dict(metadata)}
    place = 0
    for spec in shard:
        table[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [place, place + spec.nbytes],
        }
        place += spec.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
