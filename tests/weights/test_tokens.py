"""Models that number their tokens otherwise are noticed from their tokenizers' files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoints import save_model
from fusionbench.weights.sources import open_source
from fusionbench.weights.tokens import vocabulary_notes


def notes(tmp_path: Path, file: str, ours: Any, theirs: Any) -> tuple[str, ...]:
    for name, content in (("base", ours), ("math", theirs)):
        save_model(tmp_path / name, {"w": torch.ones(1)})
        if content is not None:
            (tmp_path / name / file).write_text(content if isinstance(content, str) else json.dumps(content))
    sources = [open_source(tmp_path / name) for name in ("base", "math")]
    return vocabulary_notes(sources[0], {"math": sources[1]})


def tokenizer(vocabulary: Any, **added: int) -> dict[str, Any]:
    return {"model": {"vocab": vocabulary}, "added_tokens": [{"content": c, "id": i} for c, i in added.items()]}


@pytest.mark.parametrize(
    ("file", "ours", "theirs", "said"),
    [
        ("tokenizer.json", tokenizer({"a": 0, "b": 1}), tokenizer({"a": 1, "b": 0}), "2 of 2 .* 'a' (0, there 1)"),
        ("tokenizer.json", tokenizer({"a": 0}, x=1), tokenizer({"a": 0}, y=1), "2 of 2 .* 'x' (1, there None)"),
        ("tokenizer.json", tokenizer([["a", -1], ["b", -2]]), tokenizer([["a", -1], ["c", -2]]), "2 of 2 .* 'b' (1"),
        ("vocab.json", {"a": 0, "b": 1}, {"a": 0, "b": 1, "c": 2}, "1 of 2 .* 'c' (None, there 2)"),
        ("vocab.txt", "a\nb\nc\n", "a\nc\nb\n", "2 of 3 .* 'b' (1, there 2)"),
    ],
)  # fmt: skip
def test_tokens_with_other_numbers_are_counted_and_shown(
    tmp_path: Path, file: str, ours: Any, theirs: Any, said: str
) -> None:
    (note,) = notes(tmp_path, file, ours, theirs)
    first, _, second = said.partition(" .* ")
    assert note.startswith(f"math: {first}")
    assert second in note
    assert file in note


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (tokenizer({"a": 0, "b": 1}), {**tokenizer({"b": 1, "a": 0}), "version": "2"}),
        (tokenizer({"a": 0}), None),
        (tokenizer({"a": 0}), "{"),
        (tokenizer({"a": 0}), "[]"),
        (tokenizer({"a": 0}), {"model": {}}),
    ],
)
def test_the_same_numbers_and_files_in_no_known_form_are_passed_over(tmp_path: Path, ours: Any, theirs: Any) -> None:
    assert notes(tmp_path, "tokenizer.json", ours, theirs) == ()
