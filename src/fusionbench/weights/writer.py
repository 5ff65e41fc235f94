"""Write a checkpoint so that it appears whole or not at all. No torch here.

All shapes are known from the plan, so headers are written first, the space is taken at once (a full disk shows in the
first second), tensors are put in their place in any order by any thread, and the folder is renamed when all is on disk.
"""

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fusionbench.errors import Interrupted, NotFinite, OutputError
from fusionbench.weights.headers import ITEM_BYTES, TensorSpec
from fusionbench.weights.journal import Journal
from fusionbench.weights.layout import SHARD_BYTES, Layout
from fusionbench.weights.mapped_memory import begin_writing_back
from fusionbench.weights.partial import MARK, Partial, looks_in, written_to
from fusionbench.weights.read_back import StoredPart

EARLY_BYTES = 1 << 20
"""From so many bytes on a piece is sent to the disk while others are computed; the last sync then has little to do."""
TORN = ".model"
"""How the names of files begin that other processes have not finished."""


class _Place(NamedTuple):
    file: int
    offset: int


class CheckpointWriter:
    """A folder of safetensors in the making; use as a context manager.

    On a clean exit the folder takes its final name; on an exception nothing is left. With a `key` a killed or
    interrupted writer leaves `<folder>.partial`, and the next one with that key goes on with it.

    Attributes:
        partial: the folder in the making.
        layout: which tensor lies where.
        key: the digest by which the folder is known, None where it is not gone on with.
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
        in_parts: bool = False,
    ) -> None:
        """Lay out the files; nothing is written before the context is entered.

        Args:
            folder: final name; must not exist.
            specs: the tensors, in the order of the files.
            metadata: free-form text that every file's header carries; the recipe is in it.
            shard_bytes: bytes of tensors a file holds at most, if more than one tensor is in it.
            finish: writes the other files of the folder (configuration, tokenizer) before it is renamed.
            key: the identity of what is made; only what has the same one is gone on with.
            in_parts: other processes write the files (`ShardWriter`); this one is told which are there.
        """
        self.folder = folder
        self._partial = Partial(folder)
        self.partial = self._partial.path
        self._finish = finish
        self.layout = Layout(specs, metadata, shard_bytes)
        self._descriptors: dict[int, int] = {}
        self._places: dict[str, _Place] = {}
        self._items = {spec.name: ITEM_BYTES[spec.dtype] for spec in specs}
        self.key = None if key is None else self.layout.key(key)
        self._in_parts = in_parts
        self._journal: Journal | None = None
        self.finished: frozenset[str] = frozenset()

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return self.layout.total_bytes

    @property
    def missing(self) -> list[int]:
        """Numbers of the files that are not finished."""
        return [n for n, shard in enumerate(self.layout.shards) if not {s.name for s in shard} <= self.finished]

    def __enter__(self) -> "CheckpointWriter":
        try:
            self.finished = self._partial.begin(self.key)
            if not self._holds_what_is_finished():
                self._partial.discard()
                self.finished = self._partial.begin(self.key)
            with written_to(self.folder):
                self._check_room()
                self._remove_torn()
                if self._in_parts:
                    self.finished -= {spec.name for number in self.missing for spec in self.layout.shards[number]}
                else:
                    self._open_files()
            if self.key is not None:
                sizes = {spec.name: spec.nbytes for shard in self.layout.shards for spec in shard}
                self._journal = Journal(self.partial / MARK, sizes, self.finished, self._sync)
        except BaseException:
            self._discard()
            raise
        return self

    def _begun(self, number: int) -> bool:
        return any(spec.name in self.finished for spec in self.layout.shards[number])

    def _holds_what_is_finished(self) -> bool:
        """Tell whether what an earlier writer left has the files of all that it finished, at their lengths."""
        numbers = range(len(self.layout.shards))
        return all(self.layout.is_whole(self.partial, number) for number in numbers if self._begun(number))

    def _check_room(self) -> None:
        missing = sum(self.layout.length(number) for number in self.missing if not self._begun(number))
        free = shutil.disk_usage(self.partial).free
        if free < missing:
            raise OutputError(
                f"{self.folder} needs {self.total_bytes:,} bytes, {free:,} are free there. Nothing was written."
            )

    def _remove_torn(self) -> None:
        """Remove the files that lost processes began."""
        for path in self.partial.glob(f"{TORN}*"):
            path.unlink(missing_ok=True)

    def _open_files(self) -> None:
        """Open what an earlier writer with the same key left, hence with the same headers; begin the others."""
        for number, header in enumerate(self.layout.headers):
            path, begun = self.partial / self.layout.file_name(number), self._begun(number)
            self._descriptors[number] = os.open(
                path, os.O_RDWR if begun else os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644
            )
            if not begun:
                take_room(self._descriptors[number], self.layout.length(number))
                put(self._descriptors[number], header, 0)
            for spec, offset in self.layout.places(number):
                self._places[spec.name] = _Place(number, offset)

    def _sync(self, names: Collection[str]) -> None:
        if not self._in_parts:
            for number in sorted({self._places[name].file for name in names}):
                os.fsync(self._descriptors[number])

    def write(self, name: str, content: memoryview | bytes, start: int = 0) -> None:
        """Put the bytes of a tensor's flat entries from `start` on into place; safe from any thread."""
        place = self._places[name]
        offset = place.offset + start * self._items[name]
        with written_to(self.folder):
            put(self._descriptors[place.file], content, offset)
            if self._journal is not None:
                self._journal.wrote(name, memoryview(content).nbytes)

    def place_of(self, name: str, start: int, count: int) -> StoredPart:
        """Return where so many bytes of a tensor's flat entries from `start` on are."""
        place = self._places[name]
        return StoredPart(self._descriptors[place.file], place.offset + start * self._items[name], count)

    def take(self, number: int) -> None:
        """Take note that another process has put a whole file into the folder, and on disk.

        Raises:
            OutputError: where it is not there.
        """
        if not self.layout.is_whole(self.partial, number):
            raise OutputError(
                f"{self.layout.file_name(number)} was written, but is not in {self.partial}: the machines do not share "
                "that folder. Choose an --out that all of them see."
            )
        with written_to(self.folder):
            if self._journal is not None:
                for spec in self.layout.shards[number]:
                    self._journal.wrote(spec.name, spec.nbytes)
                self._journal.note()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            if kind is KeyboardInterrupt and self._journal is not None:
                self._interrupted(self._journal)
            if (self.finished or self._in_parts) and self._journal is not None and not issubclass(kind, NotFinite):
                # What an earlier call or other processes finished is not lost by a mistake in this one.
                self._keep(self._journal)
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
                f"Stopped. {len(journal.finished):,} of {len(self._items):,} tensors are kept in {self.partial}: the "
                "same command goes on from there. To start anew, remove that folder."
            ) from None

    def _keep(self, journal: Journal) -> None:
        """Note what is finished and leave it for another writer; where nothing is, nothing is left."""
        with suppress(OSError):
            journal.note()
        if journal.finished or looks_in(self.partial):
            self._close()
            self._partial.keep()

    def _complete(self) -> None:
        self._remove_torn()
        self.layout.write_index(self.partial)
        if self._finish is not None:
            self._finish(self.partial)
        self._partial.complete()
        self._close()

    def _close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _discard(self) -> None:
        self._close()
        self._partial.discard()


def take_room(descriptor: int, length: int) -> None:
    """Make a file as long as it will be; where the system can, its place on the disk is taken too."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, length)
    else:
        os.ftruncate(descriptor, length)


def put(descriptor: int, content: memoryview | bytes, offset: int) -> None:
    """Write all bytes; the system may take fewer at a time. Large pieces are on their way to the disk at once."""
    left, start = memoryview(content).cast("B"), offset
    while left:
        done = os.pwrite(descriptor, left, offset)
        left, offset = left[done:], offset + done
    if offset - start >= EARLY_BYTES:
        begin_writing_back(descriptor, start, offset - start)
