"""A folder on any file system that fsspec knows, and the folder of this machine that stands for it.

An object store has no renames, locks or appends, so nothing is worked on there. What is finished is copied, the report
last: where a report is, the run is whole. Nothing here imports torch.
"""

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusionbench.cache import cache_folder
from fusionbench.errors import ConfigError, FusionBenchError, MissingExtra, OutputError
from fusionbench.records.results import REPORT, Report
from fusionbench.records.run_info import RUN
from fusionbench.records.runs import MARK, RECIPE, TASKS

PROBE = ".fusionbench-may-write"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Remote:
    """A folder under an address, and the folder of this machine that stands for it.

    Attributes:
        address: such as `s3://bucket/runs`.
        folder: below `$FUSIONBENCH_CACHE`; holds what is being made, and the records of what was published.
    """

    address: str
    folder: Path

    @classmethod
    def at(cls, address: str, purpose: str = "made") -> "Remote":
        """Return the remote folder of an address; each purpose has a folder of its own on this machine.

        Raises:
            ConfigError: where the address holds a password, or fsspec does not know its kind.
            MissingExtra: where the package of its kind is not installed.
        """
        shorter = address.rstrip("/")
        if "@" in shorter.partition("://")[2].partition("/")[0]:
            raise ConfigError(
                f"{shorter.partition('://')[0]}://…@…: an address is kept in records, so it holds no user and no "
                "password. Give them by the file system's own settings, such as its environment variables."
            )
        _system_of(shorter)
        digest = hashlib.sha256(shorter.encode()).hexdigest()[:16]
        return cls(shorter, cache_folder("remote", purpose, digest))

    def __truediv__(self, name: str) -> "Remote":
        """Return the folder of that name below."""
        return Remote(f"{self.address}/{name}", self.folder / name)

    def __str__(self) -> str:
        """Return the address."""
        return self.address

    def check_writable(self) -> None:
        """Write and remove a small file, so that a long run does not end in vain.

        Raises:
            OutputError: where that fails.
        """
        system, top = self._system()
        with self._reaching("written"):
            system.makedirs(top, exist_ok=True)
            system.pipe_file(f"{top}/{PROBE}", b"")
            system.rm_file(f"{top}/{PROBE}")

    def names(self) -> list[str]:
        """Return the names of all files at and below the address, relative to it.

        Raises:
            OutputError: where the address cannot be read.
        """
        system, top = self._system()
        with self._reaching("read"):
            return [str(file).removeprefix(top).lstrip("/") for file in system.find(top)]

    def fetch(self, *parts: str) -> None:
        """Put the records of all finished runs at and below the address into the folder, and these folders of theirs.

        Raises:
            OutputError: where the address cannot be read.
        """
        system, top = self._system()
        files = self.names()
        runs = {file.removesuffix(REPORT) for file in files if f"/{file}".endswith(f"/{REPORT}")}
        with self._reaching("read"):
            for file in files:
                if any(file.startswith(run) and _is_record(file.removeprefix(run), parts) for run in runs):
                    (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
                    system.get_file(f"{top}/{file}", str(self.folder / file))

    @contextmanager
    def copied(self, name: str) -> Iterator[Path]:
        """Yield a copy of one file at the address, under its own last name; it goes after the body.

        Raises:
            OutputError: where it cannot be read.
        """
        system, top = self._system()
        with tempfile.TemporaryDirectory(dir=cache_folder("remote", "copies")) as folder:
            copy = Path(folder) / name.rpartition("/")[2]
            with self._reaching("read"):
                system.get_file(f"{top}/{name}", str(copy))
            yield copy

    def fetch_run(self, identity: str, *, force: bool) -> bool:
        """Put the records of the run at the address into the folder, where it is finished; return whether it was.

        Args:
            identity: of the run that is wanted.
            force: it is to be made anew, whatever run is there.

        Raises:
            OutputError: where another run is there, files that are not ours, or the address cannot be read.
        """
        system, top = self._system()
        held = set(self.names()) - {"", PROBE}
        with self._reaching("read"):
            recipe = system.cat_file(f"{top}/{RECIPE}") if RECIPE in held else b""
        first = recipe.decode("utf-8", "replace").partition("\n")[0]
        if held and not first.startswith(MARK):
            raise OutputError(f"{self} exists and was not made by fusionbench. Choose another --out.")
        if held and not force and first != f"{MARK}{identity}":
            raise OutputError(f"{self} holds another run. Choose another --out, or add --force to make it anew.")
        if force or REPORT not in held:
            return False
        shutil.rmtree(self.folder, ignore_errors=True)
        self.fetch()
        try:
            Report.load(self.folder)
        except FusionBenchError as error:
            logger.warning("%s is made again: %s", self, error)
            shutil.rmtree(self.folder)
            return False
        return True

    def publish(self, last: str = REPORT) -> None:
        """Copy all files of the folder to the address; here, only records stay.

        Args:
            last: name of the file that is copied last, by whose presence the whole is known.

        Raises:
            OutputError: where the address cannot be written, or a file did not arrive whole.
        """
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        self.publish_files(sorted(files, key=lambda path: path.name == last))
        for file in files:
            if not _is_record(file.relative_to(self.folder).as_posix()):
                file.unlink()

    def publish_files(self, files: Sequence[Path]) -> None:
        """Copy some files of the folder to the address, in this order; the last is removed there first.

        Raises:
            OutputError: where the address cannot be written, or a file did not arrive whole.
        """
        system, top = self._system()
        targets = {path: f"{top}/{path.relative_to(self.folder).as_posix()}" for path in files}
        with self._reaching("written"):
            if files and system.exists(targets[files[-1]]):
                system.rm_file(targets[files[-1]])
            for path, target in targets.items():
                system.makedirs(target.rpartition("/")[0], exist_ok=True)
                system.put_file(str(path), target)
                arrived, size = system.size(target), path.stat().st_size
                if arrived not in (size, None):
                    raise OutputError(f"{self}: {path.name} has {size} bytes, and {arrived} arrived. Try it again.")

    def has(self, name: str) -> bool:
        """Whether a file of that name is at the address.

        Raises:
            OutputError: where it cannot be read.
        """
        system, top = self._system()
        with self._reaching("read"):
            return bool(system.exists(f"{top}/{name}"))

    def _system(self) -> tuple[Any, str]:
        return _system_of(self.address)

    @contextmanager
    def _reaching(self, done: str) -> Iterator[None]:
        """Say whatever a file system raises, of which each has its own errors, as one of ours."""
        try:
            yield
        except FusionBenchError:
            raise
        except Exception as error:
            raise OutputError(f"{self} cannot be {done}: {type(error).__name__}: {error}.") from error


def _system_of(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the folder as it calls it; what it remembers is forgotten."""
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    kind = address.partition("://")[0]
    try:
        system, top = url_to_fs(address)
    except ImportError:
        raise MissingExtra(f"{kind}://", f"'fsspec[{kind}]'") from None
    except ValueError as error:
        raise ConfigError(f"{address}: {error}. There are s3, gs, abfs, sftp, hdfs, file and others.") from None
    system.invalidate_cache()
    return system, str(top).rstrip("/")


def _is_record(file: str, parts: Sequence[str] = ()) -> bool:
    return file in (RECIPE, RUN, REPORT) or file.partition("/")[0] in (TASKS, *parts)
