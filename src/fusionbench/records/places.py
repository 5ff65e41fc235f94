"""Where runs and models are: folders, or addresses that stand for folders of this machine and are published from them.

Nothing here imports torch.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fusionbench.cache import cache_folder
from fusionbench.errors import FusionBenchError, Interrupted, MissingData, OutputError
from fusionbench.records.remote import Remote
from fusionbench.records.results import REPORT

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.*", re.DOTALL)


@contextmanager
def published(place: Path | Remote, identity: str, *, force: bool) -> Iterator[None]:
    """Fetch the records of a finished run before the body, or publish what the body made; a folder stays as it is.

    Raises:
        OutputError: where the remote folder holds something else, or cannot be read or written.
        Interrupted: on Ctrl-C while it is published; the same command goes on.
    """
    if not isinstance(place, Remote) or place.fetch_run(identity, force=force):
        yield
        return
    yield
    try:
        place.publish()
    except KeyboardInterrupt:
        raise Interrupted(f"Stopped. The run is finished, {place} is not; the same command goes on.") from None


@contextmanager
def published_model(place: Path | Remote, *, last: str) -> Iterator[Path]:
    """Yield the folder in which a model is to be made; that of a remote place is published after the body, and goes.

    What a killed body leaves is there for the next one to go on with.

    Args:
        place: where the model is to be.
        last: name of the file of it that is copied last.

    Raises:
        OutputError: where there is a model at the address, or it cannot be read or written.
    """
    if not isinstance(place, Remote):
        yield place
        return
    if place.has(last):
        raise OutputError(f"{place} exists; nothing is written over. Choose another --out, or remove it.")
    making = Remote(place.address, place.folder / "model")
    # Whole, and of who knows which recipe: it was not published any more.
    shutil.rmtree(making.folder, ignore_errors=True)
    yield making.folder
    making.publish(last)
    shutil.rmtree(making.folder)


def is_address(text: str) -> bool:
    """Whether a text is an address such as `s3://bucket/runs` rather than a folder."""
    return _ADDRESS.fullmatch(text) is not None


def output_place(text: str) -> Path | Remote:
    """Return where runs go: a folder, or the remote folder of an address that can be written.

    Raises:
        ConfigError: where the address holds a password, or fsspec does not know its kind.
        MissingExtra: where the package of its kind is not installed.
        OutputError: where nothing can be written there.
    """
    if not is_address(text):
        return Path(text)
    remote = Remote.at(text)
    remote.check_writable()
    return remote


def local_of(place: Path | Remote) -> Path:
    """Return the folder of this machine in which the runs of a place are made."""
    return place.folder if isinstance(place, Remote) else place


def publish_files(place: Path | Remote, files: Sequence[Path]) -> list[str]:
    """Return the names of files of a place as a person finds them; those of a remote one are copied there.

    Raises:
        OutputError: where the address cannot be written.
    """
    if not isinstance(place, Remote):
        return [str(file) for file in files]
    place.publish_files(files)
    return [f"{place}/{file.relative_to(place.folder).as_posix()}" for file in files]


def input_place(text: str) -> Path | Remote:
    """Return where runs are: a folder, or the remote folder of an address, whose records are fetched anew.

    Raises:
        ConfigError: where the address holds a password, or fsspec does not know its kind.
        MissingExtra: where the package of its kind is not installed.
        MissingData: where there is no finished run.
        OutputError: where it cannot be read.
    """
    if not is_address(text):
        return Path(text)
    remote = Remote.at(text, "read")
    shutil.rmtree(remote.folder)
    remote.fetch()
    _check_found(remote)
    return remote


@contextmanager
def fetched(text: str, *parts: str) -> Iterator[Path]:
    """Yield the folder of runs; of an address a copy of their records and of these folders of theirs, for the body.

    Raises:
        OutputError: where the address cannot be read.
        FusionBenchError: see `input_place`.
    """
    if not is_address(text):
        yield Path(text)
        return
    remote = Remote.at(text, "copies")
    # Of its own, since another process may look at the same run.
    with tempfile.TemporaryDirectory(dir=cache_folder("remote", "copies")) as folder:
        copy = Remote(remote.address, Path(folder) / "runs")
        copy.fetch(*parts)
        _check_found(copy)
        try:
            yield copy.folder
        except FusionBenchError as error:
            # The copy is gone when this is read.
            error.args = tuple(str(part).replace(str(copy.folder), remote.address) for part in error.args)
            raise


def _check_found(remote: Remote) -> None:
    if not remote.folder.is_dir():
        raise MissingData(f"No finished run is at {remote}. A run is finished when it has {REPORT}.")
