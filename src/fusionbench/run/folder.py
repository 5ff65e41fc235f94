"""A run's own folder: whose it is, whether it is finished, and a lock against a second writer. No torch here."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from filelock import FileLock, Timeout

from fusionbench.config import Recipe
from fusionbench.errors import OutputError
from fusionbench.records import write_whole
from fusionbench.weights.writer import PARTIAL, written_to

RECIPE, MODEL, TASKS, REPORT = "recipe.yaml", "model", "tasks", "report.json"
MARK = "# fusionbench identity: "


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


def state_of(folder: Path, identity: str, *, force: bool) -> State:
    """Return what a run of this identity finds; with `force`, a folder that fusionbench made is emptied first.

    Raises:
        OutputError: where the folder holds another run, or files that are not ours.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return State.new
    held = identity_in(folder)
    if held is None:
        raise OutputError(f"{folder} exists and was not made by fusionbench. Choose another folder with --out.")
    if force:
        shutil.rmtree(folder)
        return State.new
    if held != identity:
        raise OutputError(
            f"{folder} holds another run ({held[:20]}…; this one is {identity[:20]}…): the recipe, its inputs or a "
            "version differ. Choose another folder with --out, or add --force to make it anew."
        )
    return State.finished if (folder / REPORT).is_file() else State.unfinished


def identity_in(folder: Path) -> str | None:
    """Return the identity of the run that a folder holds; None where it is none of ours."""
    try:
        first = (folder / RECIPE).read_text().partition("\n")[0]
    except OSError:
        return None
    return first.removeprefix(MARK) if first.startswith(MARK) else None


def begin(folder: Path, recipe: Recipe, identity: str) -> None:
    """Make the folder and write its recipe, by which it is known."""
    with written_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TASKS).mkdir(exist_ok=True)
        shutil.rmtree(folder / f"{MODEL}{PARTIAL}", ignore_errors=True)
        write_whole(folder / RECIPE, f"{MARK}{identity}\n{recipe.to_yaml()}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder against a second writer.

    Raises:
        OutputError: where another process writes there.
    """
    with written_to(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise OutputError(f"Another process is writing {folder}. Wait for it, or choose another folder.") from None
