"""A folder that appears whole or not at all: made beside its final name, renamed when all is on disk. No torch here."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fusionbench.errors import OutputError
from fusionbench.weights.journal import read_journal, start_journal

PARTIAL = ".partial"
MARK = ".fusionbench-partial"
"""A file by which a folder in the making is known as ours; a killed writer's may be removed or gone on with, no other.

It is the journal of a folder that can be gone on with, and empty in others."""
PREPARED = ".fusionbench-prepared"
"""What first passes over the inputs found, where other processes make the files; it alone is worth going on with.

So are files whose names begin so: what a pass found, or some of it.
"""

BUGS = frozenset({None, errno.EBADF, errno.EFAULT})
"""The operating system's words for a mistake of ours; all others say that a place cannot be written."""


FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals into errors that name the folder and the fix.

    Raises:
        OutputError: on a full disk, a folder that cannot be written, or a quota.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL or (error.errno not in BUGS and _concerns(folder, error)):
            raise unwritable(folder, error) from None
        raise


def unwritable(place: Path, error: OSError) -> OutputError:
    """Return the system's refusal to write somewhere in words, with the fix."""
    if error.errno in FULL:
        return OutputError(f"The disk of {place} is full. Free some space or choose another folder.")
    return OutputError(f"{place} cannot be written: {error.strerror}. Choose another folder.")


def _concerns(folder: Path, error: OSError) -> bool:
    """Tell whether an error names no file, or one in, beside or above `folder`: an input's is told by who reads it."""
    if error.filename is None or not isinstance(error.filename, str):
        return True
    named, whole = Path(error.filename).absolute(), folder.absolute()
    return named.is_relative_to(whole.parent) or whole.is_relative_to(named)


def looks_in(folder: Path) -> list[Path]:
    """Return the files of first passes in a folder in the making."""
    return sorted(folder.glob(f"{PREPARED}*"))


def room_beside(folder: Path) -> Path:
    """Make an empty folder beside one that is made once more, on the same disk.

    Raises:
        OutputError: where nothing can be written there.
    """
    whole = folder.resolve()
    with written_to(whole.parent):
        return Path(tempfile.mkdtemp(prefix=f"{whole.name}.remade-", dir=whole.parent))


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield `<folder>.partial`, which takes its final name on a clean exit; on an exception nothing is left.

    Raises:
        OutputError: where the folder exists or cannot be written, where another process writes it, or where a folder
            that fusionbench did not make is in the way.
    """
    partial = Partial(folder)
    try:
        partial.begin()
        with written_to(folder):
            yield partial.path
            partial.complete()
    except BaseException:
        partial.discard()
        raise


class Partial:
    """A folder in the making, held against other writers until it is complete or discarded.

    Attributes:
        folder: the final name.
        path: where it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder.parent / (folder.name + PARTIAL)
        self._lock: int | None = None
        self._ours = False
        self._above: list[Path] = []

    def begin(self, key: str | None = None) -> frozenset[str]:
        """Make the folder, in place of what a killed writer of ours left, or go on with what it finished.

        Args:
            key: what is being made; without it nothing is gone on with.

        Returns:
            Names of the tensors that are on disk already.

        Raises:
            OutputError: see `whole_folder`; also where something else was begun under this name.
        """
        with written_to(self.folder):
            if self.folder.exists() or self.folder.is_symlink():
                raise OutputError(f"{self.folder} exists; nothing is written over. Choose another folder or remove it.")
            if self.path.exists() and (finished := self._take_leftover(key)) is not None:
                self._ours = True
                return finished
            # Said beforehand: an interruption may come as soon as the folder is there.
            self._ours = True
            self._above = [parent for parent in self.path.parents if not parent.exists()]
            try:
                self.path.mkdir(parents=True)
                self._lock = self._locked()
                (self.path / MARK).touch()
                if key is not None:
                    start_journal(self.path / MARK, key)
            except FileExistsError:
                self._ours = False
                raise
            except BaseException:
                self.discard()
                raise
        return frozenset()

    def complete(self) -> None:
        """Put all on disk and give it the final name."""
        for path in looks_in(self.path):
            path.unlink()
        for path in self.path.rglob("*"):
            if path.is_file():
                sync(path)
        with suppress(OSError):
            sync(self.path)
        os.rename(self.path, self.folder)
        self._ours = False
        # Only now: until the rename it is this file that says whose the folder is.
        (self.folder / MARK).unlink(missing_ok=True)
        self._release()
        with suppress(OSError):
            sync(self.folder.parent)

    def discard(self) -> None:
        """Leave nothing of it behind; what somebody else made there stays."""
        if self._ours:
            shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            for parent in self._above:
                parent.rmdir()
        self._release()

    def keep(self) -> None:
        """Leave the folder as it is, for another writer to go on with."""
        self._ours = False
        self._release()

    def _take_leftover(self, key: str | None) -> frozenset[str] | None:
        """Return what is finished of the same thing, and hold it; remove what is of no use, and return None."""
        if not self.path.is_dir() or (any(self.path.iterdir()) and not (self.path / MARK).is_file()):
            raise OutputError(
                f"{self.path} is in the way of {self.folder}, and fusionbench did not make it. Move or remove it, or "
                "choose another folder."
            )
        self._lock = self._locked()
        begun, finished = read_journal(self.path / MARK) if (self.path / MARK).is_file() else (None, frozenset())
        if key is not None and begun == key and (finished or looks_in(self.path)):
            self._remove_companions()
            return finished
        if key is not None and finished:
            self._release()
            raise OutputError(
                f"{self.path} holds {len(finished)} finished tensors of a merge by another recipe or of other models. "
                "Run that one again to finish it, remove the folder, or choose another --out."
            )
        shutil.rmtree(self.path, ignore_errors=True)
        self._release()
        return None

    def _remove_companions(self) -> None:
        """Remove what stands beside the tensors, which may be cut off; it is written anew."""
        for path in self.path.iterdir():
            if path.suffix != ".safetensors" and not path.name.startswith("."):
                path.unlink()

    def _locked(self) -> int:
        """Return a descriptor that holds the folder for this process until it is closed, or the process ends."""
        descriptor = os.open(self.path, os.O_RDONLY)
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

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def settle(written: Path, place: Path) -> None:
    """Put a file on disk, and only then under its final name."""
    sync(written)
    os.replace(written, place)
    with suppress(OSError):
        # Not every system has a way to put names on disk.
        sync(place.parent)


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
