"""Write a checkpoint so that it appears whole or not at all. No torch here.

All shapes are known from the plan, so headers are written first, the space is taken at once (a full disk shows in the
first second), tensors are put in their place in any order by any thread, and the folder is renamed when all is on disk.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from fusionbench.errors import Interrupted, NotFinite, OutputError
from fusionbench.weights.headers import ITEM_BYTES, TensorSpec
from fusionbench.weights.journal import Journal
from fusionbench.weights.partial import MARK, Partial, written_to

SHARD_BYTES = 5_000_000_000


class _Place(NamedTuple):
    file: int
    offset: int


class CheckpointWriter:
    """A folder of safetensors in the making; use as a context manager.

    On a clean exit the folder takes its final name; on an exception nothing is left. With a `key` a killed or
    interrupted writer leaves `<folder>.partial`, and the next one with that key goes on with it.

    Attributes:
        finished: names of the tensors that an earlier writer finished; they need not be written again.
    """

    def __init__(
        self,
        folder: Path,
        specs: Sequence[TensorSpec],
        *,
        metadata: Mapping[str, str],
        shard_bytes: int = SHARD_BYTES,
        finish: Callable[[Path], None] | None = None,
        key: str | None = None,
    ) -> None:
        """Lay out the files; nothing is written before the context is entered.

        Args:
            folder: final name; must not exist.
            specs: the tensors, in the order of the files.
            metadata: free-form text that every file's header carries; the recipe is in it.
            shard_bytes: bytes of tensors a file holds at most, if more than one tensor is in it.
            finish: writes the other files of the folder (configuration, tokenizer) before it is renamed.
            key: the identity of what is made; only what has the same one is gone on with.
        """
        self.folder = folder
        self._partial = Partial(folder)
        self.partial = self._partial.path
        self._finish = finish
        self._shards = list(_split(specs, shard_bytes))
        self._metadata = {"format": "pt", **metadata}
        self._descriptors: list[int] = []
        self._places: dict[str, _Place] = {}
        self._items = {spec.name: ITEM_BYTES[spec.dtype] for spec in specs}
        self._headers = [_header(shard, self._metadata) for shard in self._shards]
        self._key = None if key is None else sha256(b"\0".join([key.encode(), *self._headers])).hexdigest()
        self._journal: Journal | None = None
        self.finished: frozenset[str] = frozenset()

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for shard in self._shards for spec in shard)

    def __enter__(self) -> "CheckpointWriter":
        try:
            self.finished = self._partial.begin(self._key)
            if self.finished and not self._files_are_there():
                self._partial.discard()
                self.finished = self._partial.begin(self._key)
            with written_to(self.folder):
                if self.finished:
                    self._open_files()
                else:
                    self._create_files()
            if self._key is not None:
                sizes = {spec.name: spec.nbytes for shard in self._shards for spec in shard}
                self._journal = Journal(self.partial / MARK, sizes, self.finished, self._sync)
        except BaseException:
            self._discard()
            raise
        return self

    def _files_are_there(self) -> bool:
        """Tell whether what an earlier writer left has all its files, at their lengths."""
        lengths = [
            len(header) + sum(spec.nbytes for spec in shard)
            for header, shard in zip(self._headers, self._shards, strict=True)
        ]
        files = [self.partial / self._file_name(number) for number in range(len(self._shards))]
        return all(f.is_file() and f.stat().st_size == length for f, length in zip(files, lengths, strict=True))

    def _open_files(self) -> None:
        """Open what an earlier writer with the same key left, hence with the same headers."""
        for number, shard in enumerate(self._shards):
            self._descriptors.append(os.open(self.partial / self._file_name(number), os.O_RDWR))
            self._lay_out(number, shard, self._headers[number])

    def _sync(self, names: Collection[str]) -> None:
        for number in sorted({self._places[name].file for name in names}):
            os.fsync(self._descriptors[number])

    def _create_files(self) -> None:
        free = shutil.disk_usage(self.partial).free
        if free < self.total_bytes:
            raise OutputError(
                f"{self.folder} needs {self.total_bytes:,} bytes, {free:,} are free there. Nothing was written."
            )
        for number, shard in enumerate(self._shards):
            header = self._headers[number]
            descriptor = os.open(self.partial / self._file_name(number), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            self._descriptors.append(descriptor)
            size = len(header) + sum(spec.nbytes for spec in shard)
            os.posix_fallocate(descriptor, 0, size) if hasattr(os, "posix_fallocate") else os.ftruncate(
                descriptor, size
            )
            _put(descriptor, header, 0)
            self._lay_out(number, shard, header)

    def _lay_out(self, number: int, shard: Sequence[TensorSpec], header: bytes) -> None:
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
            if self._journal is not None:
                self._journal.wrote(name, memoryview(content).nbytes)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            if kind is KeyboardInterrupt and self._journal is not None:
                self._interrupted(self._journal)
            if self.finished and self._journal is not None and not issubclass(kind, NotFinite):
                # What an earlier call finished is not lost by a mistake in this one.
                self._keep(self._journal)
                return
            self._discard()
            return
        try:
            with written_to(self.folder):
                self._complete()
        except BaseException:
            self._discard()
            raise

    def _interrupted(self, journal: Journal) -> None:
        """Keep what is finished, and say so.

        Raises:
            Interrupted: where something is kept.
        """
        self._keep(journal)
        if journal.finished:
            raise Interrupted(
                f"Stopped. {len(journal.finished):,} of {len(self._places):,} tensors are kept in {self.partial}: the "
                "same command goes on from there. To start anew, remove that folder."
            ) from None

    def _keep(self, journal: Journal) -> None:
        """Note what is finished and leave it for another writer; where nothing is, nothing is left."""
        with suppress(OSError):
            journal.note()
        if journal.finished:
            self._close()
            self._partial.keep()

    def _complete(self) -> None:
        if len(self._shards) > 1:
            names = {s.name: self._file_name(n) for n, shard in enumerate(self._shards) for s in shard}
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": names}
            (self.partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
        if self._finish is not None:
            self._finish(self.partial)
        self._partial.complete()
        self._close()

    def _close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _discard(self) -> None:
        self._close()
        self._partial.discard()


def _put(descriptor: int, content: memoryview | bytes, offset: int) -> None:
    """Write all bytes; the system may take fewer at a time."""
    left = memoryview(content).cast("B")
    while left:
        done = os.pwrite(descriptor, left, offset)
        left, offset = left[done:], offset + done


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
