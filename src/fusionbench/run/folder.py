"""A run's own folder: whose it is, whether it is finished, and a lock against a second writer. No torch here."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from fusionbench.config import Recipe
from fusionbench.errors import OutputError
from fusionbench.records import RECIPE as RECIPE
from fusionbench.records import REPORT as REPORT
from fusionbench.records import Remote, local_of, published, write_whole
from fusionbench.records.runs import MARK
from fusionbench.records.runs import TASKS as TASKS
from fusionbench.weights.partial import written_to

MODEL = "model"


class State(Enum):
    """What is in the folder that a run would use."""

    new = "new"
    unfinished = "unfinished"
    finished = "finished"


def default_folder(recipe: Recipe, identity: str) -> Path:
    """Return `runs/<suite>/<method>-<8 hex>`."""
    suite = Path(recipe.suite.name).stem if recipe.suite and recipe.suite.name.endswith((".yaml", ".yml")) else None
    place = suite or (recipe.suite.name if recipe.suite else "merged")
    return Path("runs") / place / f"{recipe.method.name}-{identity.removeprefix('sha256:')[:8]}"


def state_of(folder: Path, identity: str, *, force: bool | None) -> State:
    """Return what a run of this identity finds; with `force`, a folder that fusionbench made is emptied first.

    Args:
        folder: of the run.
        identity: of the run.
        force: None where the command has no such option, which the error then does not name.

    Raises:
        OutputError: where the folder holds another run, or files that are not ours.
    """
    if not folder.exists() or (folder.is_dir() and all(_unfinished(path) for path in folder.iterdir())):
        return State.new
    held = identity_in(folder)
    if held is None:
        raise OutputError(f"{folder} exists and was not made by fusionbench. Choose another folder with --out.")
    if force:
        shutil.rmtree(folder)
        return State.new
    if held != identity:
        anew = "" if force is None else ", or add --force to make it anew"
        raise OutputError(
            f"{folder} holds another run ({held[:20]}…; this one is {identity[:20]}…): the recipe, its inputs or a "
            f"version differ. Choose another folder with --out{anew}."
        )
    return State.finished if (folder / REPORT).is_file() else State.unfinished


def _unfinished(path: Path) -> bool:
    """Whether this is a recipe that a killed process had not put under its name yet."""
    return path.name.startswith(f".{RECIPE}.")


def identity_in(folder: Path) -> str | None:
    """Return the identity of the run that a folder holds; None where it is none of ours."""
    try:
        first = (folder / RECIPE).read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeError):
        return None
    return first.removeprefix(MARK) if first.startswith(MARK) else None


def begin(folder: Path, recipe: Recipe, identity: str) -> None:
    """Make the folder and write its recipe, by which it is known."""
    with written_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RECIPE, f"{MARK}{identity}\n{recipe.to_yaml()}")
        (folder / TASKS).mkdir(exist_ok=True)


def withdraw(folder: Path) -> None:
    """Remove what `begin` made, where nothing has come to it since: a mistake that was found late leaves nothing."""
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held == {RECIPE, TASKS} and not any((folder / TASKS).iterdir()):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def held(place: Path | Remote, identity: str, *, force: bool) -> Iterator[None]:
    """Hold the folder of a run of this identity against a second writer; a remote one has what is finished there.

    Raises:
        OutputError: where another process writes there, nobody can, or the remote folder holds something else.
    """
    with locked(local_of(place)), published(place, identity, force=force):
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder against a second writer; of the lock, and of folders above that were made in vain, nothing stays.

    Raises:
        OutputError: where another process writes there, or nobody can.
    """
    above = [parent for parent in folder.parents if not parent.exists()]
    lock = folder.with_name(f".{folder.name}.lock")
    with written_to(folder):
        descriptor = _held(folder, lock)
    try:
        yield
    finally:
        with suppress(OSError):
            # While it is held: whoever opened it meanwhile finds that it is not the file of that name any more.
            lock.unlink()
        os.close(descriptor)
        with suppress(OSError):
            for parent in above:
                parent.rmdir()


def _held(folder: Path, lock: Path) -> int:
    """Return a descriptor of the lock file that holds it until it is closed, or the process ends."""
    while True:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            if folder.parent.is_dir():
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OutputError(f"Another process is writing {folder}. Wait for it, or choose another folder.") from None
        except OSError:
            # Not every file system has locks.
            pass
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        os.close(descriptor)
