"""`fusion.lock.json`: what a merged folder was made of and what it holds, so that both can be checked. No torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusionbench.errors import CheckpointError
from fusionbench.weights.documents import read_json
from fusionbench.weights.headers import Source
from fusionbench.weights.safetensors import SafetensorsFile

LOCK = "fusion.lock.json"
SCHEMA = 2
"""Raised when samples are taken in another way, so that older ones are not taken for a change."""
READ_BYTES = 1 << 22


def write_lock(folder: Path, header: Mapping[str, Any], sources: Mapping[str, Source], *, full: bool) -> None:
    """Write the lock of a merged folder.

    Args:
        folder: it holds the output's files, whole.
        header: recipe, identity and versions, as they stand in the output's files.
        sources: the inputs by name.
        full: whether every byte of inputs and outputs is digested (SHA-256); else headers, sizes and samples, of which
            every tensor has one (`SafetensorsFile.digest`): megabytes, whatever the size.
    """
    document = {
        **header,
        "schema": SCHEMA,
        "inputs": {name: _input(source, full) for name, source in sources.items()},
        "outputs": {path.name: describe(path, full) for path in sorted(folder.glob("*.safetensors"))},
    }
    (folder / LOCK).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def renew_outputs(folder: Path) -> None:
    """Write the outputs' digests anew, where a folder has a lock: for who changes its files on purpose."""
    if not (folder / LOCK).is_file():
        return
    document = read_lock(folder)
    full = any("sha256" in facts for facts in document["outputs"].values())
    document["outputs"] = {name: describe(folder / name, full) for name in document["outputs"]}
    partial = folder / f".{LOCK}"
    partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    partial.replace(folder / LOCK)


def _input(source: Source, full: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"reference": source.label, "fingerprint": source.fingerprint()}
    files: Sequence[SafetensorsFile] = getattr(source, "files", ())
    if files:
        found["files"] = {file.path.name: _describe(file, full) for file in files}
    return found


def describe(path: Path, full: bool) -> dict[str, Any]:
    """Return a safetensors file's size and digest: `fp:` of a sample, and with `full` `sha256` of every byte."""
    return _describe(SafetensorsFile(path), full)


def _describe(file: SafetensorsFile, full: bool) -> dict[str, Any]:
    found = {"bytes": file.size, "fingerprint": file.fingerprint}
    return {**found, "sha256": sha256(file.path)} if full else found


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read a few megabytes at a time."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def read_lock(folder: Path) -> dict[str, Any]:
    """Return the lock of a folder.

    Raises:
        CheckpointError: where it has none, or one that is damaged or of another make.
    """
    path = folder / LOCK
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {LOCK}: it was not made by fusionbench merge, or the file was removed.")
    try:
        document: Any = read_json(path)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path} is no lock of schema {SCHEMA}: it is of another version, or damaged. Merge again to have one."
        )
    parts: list[Any] = [document.get(key) for key in ("recipe", "inputs", "outputs")]
    whole = all(isinstance(part, dict) for part in parts)
    inside = whole and all(Path(name).name == name for name in parts[2])
    if not inside or not all(isinstance(of, dict) for part in parts[1:] for of in part.values()):
        raise CheckpointError(
            f"{path} is damaged: recipe, inputs and outputs should be objects, outputs by plain file names."
        )
    return document
