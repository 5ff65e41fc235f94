"""Write one file of a checkpoint whose other files other processes write, perhaps on other machines. No torch here."""

import os
import socket
from pathlib import Path

from fusionbench.errors import OutputError
from fusionbench.weights.headers import ITEM_BYTES
from fusionbench.weights.journal import read_journal
from fusionbench.weights.layout import Layout
from fusionbench.weights.partial import MARK, written_to
from fusionbench.weights.read_back import StoredPart
from fusionbench.weights.writer import TORN, put, take_room


class ShardWriter:
    """One file in the making; use as a context manager.

    On a clean exit it is on disk under its name in the folder; on an exception nothing is left of it. Two processes may
    write the same file at a time: each has its own until it is renamed, and the bytes are equal.
    """

    def __init__(self, partial: Path, layout: Layout, number: int, *, key: str) -> None:
        """Say which file; nothing is written before the context is entered.

        Args:
            partial: the folder in the making, which a `CheckpointWriter` with `in_parts` has begun.
            layout: of the whole checkpoint.
            number: of the file.
            key: the layout's key; a folder in which something else is made is left alone.
        """
        self._partial, self._layout, self._number, self._key = partial, layout, number, key
        name = layout.file_name(number).removeprefix("model")
        self._path = partial / f"{TORN}{name}.{socket.gethostname()}-{os.getpid()}"
        self._descriptor = -1
        self._places = {spec.name: (offset, ITEM_BYTES[spec.dtype]) for spec, offset in layout.places(number)}

    def __enter__(self) -> "ShardWriter":
        check_folder(self._partial, self._key)
        with written_to(self._partial):
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                take_room(self._descriptor, self._layout.length(self._number))
                put(self._descriptor, self._layout.headers[self._number], 0)
            except BaseException:
                self._discard()
                raise
        return self

    def write(self, name: str, content: memoryview | bytes, start: int = 0) -> None:
        """Put the bytes of a tensor's flat entries from `start` on into place; safe from any thread."""
        offset, item = self._places[name]
        with written_to(self._partial):
            put(self._descriptor, content, offset + start * item)

    def place_of(self, name: str, start: int, count: int) -> StoredPart:
        """Return where so many bytes of a tensor's flat entries from `start` on are."""
        offset, item = self._places[name]
        return StoredPart(self._descriptor, offset + start * item, count)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                check_folder(self._partial, self._key)
                with written_to(self._partial):
                    os.fsync(self._descriptor)
                    os.rename(self._path, self._partial / self._layout.file_name(self._number))
        finally:
            self._discard()

    def _discard(self) -> None:
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)


def check_folder(partial: Path, key: str) -> None:
    """Refuse a folder that is gone, or in which something else is made by now.

    Raises:
        OutputError: saying so.
    """
    mark = partial / MARK
    if not mark.is_file() or read_journal(mark)[0] != key:
        raise OutputError(
            f"{partial} is not the folder of this merge on {socket.gethostname()}: either the machines do not share "
            "it, and --out should be one that all of them see, or the merge was given up meanwhile."
        )
