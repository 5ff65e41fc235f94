"""Do models number their tokens alike? Else rows of different tokens are merged. From files alone; no torch here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusionbench.weights.headers import Source

FILES = ("tokenizer.json", "vocab.json", "vocab.txt")
"""Where a vocabulary may stand; the first that both models have is held against the other's."""


def vocabulary_notes(reference: Source, experts: Mapping[str, Source]) -> tuple[str, ...]:
    """Return a note for each expert whose tokens have other numbers than the reference's, from their folders' files."""
    if reference.folder is None:
        return ()
    notes = []
    for name, expert in experts.items():
        file = next((f for f in FILES if expert.folder and _has(reference.folder, f) and _has(expert.folder, f)), None)
        if file is None or expert.folder is None or _same_file(reference.folder / file, expert.folder / file):
            continue
        ours, theirs = _numbers(reference.folder / file), _numbers(expert.folder / file)
        others = [token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token)]
        if ours and theirs and others:
            shown = ", ".join(f"{token!r} ({ours.get(token)}, there {theirs.get(token)})" for token in others[:3])
            notes.append(
                f"{name}: {len(others):,} of {len(ours):,} tokens have other numbers in its {file} than in "
                f"{reference.label}'s, such as {shown}; rows of embeddings are merged by number; "
                "vocabulary=base merges them by token"
            )
    return tuple(notes)


def token_numbers(folder: Path) -> Mapping[str, int]:
    """Return the number of each token of a folder's tokenizer; nothing where there is none that can be read."""
    return next((found for file in FILES if _has(folder, file) and (found := _numbers(folder / file))), {})


def _has(folder: Path, file: str) -> bool:
    return (folder / file).is_file()


def _same_file(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def _numbers(file: Path) -> Mapping[str, int]:
    """Return the number of each token; nothing where the file is in another form."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".txt":
            return {token: number for number, token in enumerate(text.splitlines())}
        return _numbers_of_json(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _numbers_of_json(content: Any) -> Mapping[str, int]:
    if "model" not in content:
        return dict(content)
    vocabulary = content["model"]["vocab"]
    listed = isinstance(vocabulary, list)
    numbers = {token: number for number, (token, _) in enumerate(vocabulary)} if listed else dict(vocabulary)
    return {**numbers, **{added["content"]: added["id"] for added in content.get("added_tokens", ())}}
