"""Is a merged folder what it says? Its files are held against its lock, or it is made once more. No torch here."""

import shutil
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError, FusionBenchError
from fusionbench.merge import Progress, merge, open_pool, silent
from fusionbench.records import Remote
from fusionbench.weights.lock import LOCK, describe, read_lock, sha256
from fusionbench.weights.partial import room_beside
from fusionbench.weights.sources import open_source

MODEL = "model"
"""Where a run's folder has its model."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found.

    Attributes:
        outputs: a line for each file of the folder that is wrong; none where all is as the lock says.
        inputs: a line for each input that has changed or cannot be found; the folder may be sound all the same.
        full: whether every byte was held against a SHA-256; else against samples.
    """

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    full: bool


def is_merged(folder: Path) -> bool:
    """Tell whether a folder is a merged model; it may be of a run, whose model has a lock, or of nothing of ours."""
    return (folder / LOCK).is_file()


def verify(place: Path | Remote) -> Checked:
    """Hold the files of a merged folder, or of a run's model, against its lock, and its inputs where they are found.

    Of a remote place, one file at a time is copied to this machine, looked at and removed.

    Raises:
        CheckpointError: where the folder has no lock, or one that cannot be read.
        OutputError: where an address cannot be read.
    """
    if isinstance(place, Remote):
        return _verify_remote(place)
    folder = place if is_merged(place) or not is_merged(place / MODEL) else place / MODEL
    names = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    return _held_against(read_lock(folder), names, lambda name, facts: _compare(folder / name, facts))


def _verify_remote(remote: Remote) -> Checked:
    held = set(remote.names())
    inside = f"{MODEL}/" if LOCK not in held and f"{MODEL}/{LOCK}" in held else ""
    if f"{inside}{LOCK}" not in held:
        raise CheckpointError(f"{remote} has no {LOCK}: it was not made by fusionbench merge, or the file was removed.")
    with remote.copied(f"{inside}{LOCK}") as path:
        try:
            lock = read_lock(path.parent)
        except CheckpointError as error:
            # The copy is gone when the message is read.
            raise CheckpointError(str(error).replace(str(path), f"{remote}/{inside}{LOCK}")) from None

    def compare(name: str, facts: Mapping[str, Any]) -> str | None:
        with remote.copied(f"{inside}{name}") as path:
            problem = _compare(path, facts)
            return problem and problem.replace(str(path), f"{remote}/{inside}{name}")

    names = {name.removeprefix(inside) for name in held if name.startswith(inside)}
    return _held_against(lock, {name for name in names if "/" not in name}, compare)


def _held_against(
    lock: Mapping[str, Any], names: Set[str], compare: Callable[[str, Mapping[str, Any]], str | None]
) -> Checked:
    """Return what is wrong with files of these names in a folder of this lock."""
    expected: Mapping[str, Mapping[str, Any]] = lock["outputs"]
    problems = [
        problem
        for name, facts in expected.items()
        if (problem := compare(name, facts) if name in names else f"{name} is missing")
    ]
    extra = sorted(name for name in names - expected.keys() if name.endswith(".safetensors"))
    problems += [f"{name} is not in {LOCK}" for name in extra]
    full = all("sha256" in facts for facts in expected.values())
    inputs = [line for name, facts in lock["inputs"].items() if (line := _input(name, facts))]
    return Checked(tuple(problems), tuple(inputs), full)


def _compare(path: Path, facts: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a file, or None."""
    size = path.stat().st_size
    if size != facts.get("bytes"):
        return f"{path.name} has {size} bytes, the lock says {facts.get('bytes')}"
    if "sha256" in facts:
        found = sha256(path)
        return (
            None if found == facts["sha256"] else f"{path.name} has another SHA-256 ({found}): its bytes have changed"
        )
    try:
        sample = describe(path, full=False)["fingerprint"]
    except CheckpointError as error:
        return str(error)
    return (
        None if sample == facts.get("fingerprint") else f"{path.name} has another fingerprint: its bytes have changed"
    )


def _input(name: str, facts: Mapping[str, Any]) -> str | None:
    """Return what became of an input, or None where it is as it was."""
    reference = str(facts.get("reference"))
    try:
        found = open_source(reference).fingerprint()
    except FusionBenchError:
        return f"{name}: {reference} cannot be opened here"
    return None if found == facts.get("fingerprint") else f"{name}: {reference} has changed since"


def remake(folder: Path, progress: Progress = silent) -> tuple[str, ...]:
    """Make a merged folder once more, beside it, compare each file byte by byte, and remove the copy.

    Args:
        folder: as `merge` wrote it.
        progress: told how many entries are done.

    Returns:
        A line for each file that came out otherwise; none where all are equal.

    Raises:
        CheckpointError: where the folder has no lock, or its inputs are gone or have changed.
        ConfigError: where the folder is the model of a run, whose models a suite names.
        OutputError: where nothing can be written beside the folder.
        FusionBenchError: see `fusionbench.merge.merge`.
    """
    lock = read_lock(folder)
    changed = [line for name, facts in lock["inputs"].items() if (line := _input(name, facts))]
    if changed:
        raise CheckpointError("\n".join([f"{folder} cannot be made again:", *(f"  {line}" for line in changed)]))
    recipe = Recipe.read(lock["recipe"], f"The recipe in {folder / LOCK}")
    if not recipe.experts:
        raise ConfigError(
            f"{folder} was written by a run of a suite. Name the run's folder: fusionbench reproduce {folder.parent}"
        )
    place = room_beside(folder)
    try:
        merge(recipe, place / "model", progress, open_pool(recipe))
        return tuple(
            f"{name} came out otherwise"
            for name in lock["outputs"]
            if not (folder / name).is_file() or sha256(folder / name) != sha256(place / "model" / name)
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)
