"""Whose a training's folder is, and whether what it makes is there already."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusionbench.errors import ConfigError, OutputError
from fusionbench.weights.companions import RECORD
from fusionbench.weights.partial import settle

JOB = "job.json"


def finished(out: Path, work: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a folder that an equal call has made, and remove what that call left of its training.

    Raises:
        OutputError: where it is another's.
    """
    place = out / RECORD
    record: dict[str, Any] = json.loads(place.read_text()) if place.is_file() else {}
    if any(record.get(key) != value for key, value in asked.items()):
        raise OutputError(f"{out} exists; nothing is written over. Choose another folder or remove it.")
    if work.is_dir() and not _changed(work, asked):
        release(work)
    return record


def claim(work: Path, record: Mapping[str, Any]) -> None:
    """Note what the training in a folder is, or see that it is the same.

    Raises:
        ConfigError: where it is another.
    """
    job = work / JOB
    if not job.is_file():
        work.mkdir(parents=True, exist_ok=True)
        partial = work / (JOB + ".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        settle(partial, job)
        return
    if changed := _changed(work, record):
        raise ConfigError(
            f"{work} holds an unfinished training with another {', '.join(changed)}. Give the same to go on, or remove "
            "that folder to start again."
        )


def release(work: Path) -> None:
    """Remove a training's folder; the note of whose it is goes last, so that a killed call's rest is known by it."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != JOB:
            path.unlink()
    (work / JOB).unlink(missing_ok=True)
    work.rmdir()


def _changed(work: Path, record: Mapping[str, Any]) -> list[str]:
    """Return in what a training's folder is another's; one without a note is anybody's only where it is empty."""
    job = work / JOB
    if not job.is_file():
        return [JOB] if any(work.iterdir()) else []
    before = json.loads(job.read_text())
    return [key for key in record if record[key] != before.get(key)]
