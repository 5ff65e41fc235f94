"""What is on disk is read again and held against what was written, where the user asks for it."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from writing import CONTENT, SPECS, left

from checkpoints import save_model
from fusionbench.config import Recipe
from fusionbench.errors import OutputError
from fusionbench.launch.jobs import perform
from fusionbench.launch.launching import LAUNCHERS
from fusionbench.merge import merge
from fusionbench.weights import read_back
from fusionbench.weights.read_back import ReadBack
from fusionbench.weights.writer import CheckpointWriter


def written(writer: CheckpointWriter) -> ReadBack:
    sink = ReadBack(writer)
    sink.write("c", memoryview(CONTENT["c"]))
    sink.write("a", memoryview(CONTENT["a"][16:]), start=4)
    sink.write("b", memoryview(CONTENT["b"]))
    sink.write("a", memoryview(CONTENT["a"][:16]))
    return sink


@pytest.mark.parametrize("block", [1 << 22, 3])
def test_what_was_written_is_what_is_read(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_back, "READ_BYTES", block)
    with CheckpointWriter(tmp_path / "out", SPECS, metadata={}, shard_bytes=24) as writer:
        written(writer).compare()


@pytest.mark.parametrize(("name", "byte", "entry"), [("a", 0, "0"), ("a", 23, "4"), ("b", 7, "0"), ("c", 7, "0")])
def test_a_byte_that_is_another_on_disk_is_an_error_that_names_the_tensor(
    name: str, byte: int, entry: str, tmp_path: Path
) -> None:
    def spoiled() -> None:
        with CheckpointWriter(tmp_path / "out", SPECS, metadata={}, shard_bytes=24) as writer:
            sink = written(writer)
            place = writer.place_of(name, 0, len(CONTENT[name]))
            os.pwrite(place.descriptor, b"\xee", place.offset + byte)
            sink.compare()

    with pytest.raises(OutputError, match=rf"{name} was written, but other bytes are read back from entry {entry} on"):
        spoiled()
    assert left(tmp_path) == []


def test_a_file_that_was_cut_is_an_error(tmp_path: Path) -> None:
    def cut() -> None:
        with CheckpointWriter(tmp_path / "out", SPECS, metadata={}) as writer:
            sink = written(writer)
            place = writer.place_of("b", 0, 8)
            os.ftruncate(place.descriptor, place.offset)
            sink.compare()

    with pytest.raises(OutputError, match="was written, but other bytes are read back"):
        cut()


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_disk_that_loses_bytes_is_noticed_by_a_merge_that_is_asked_to_look(
    in_parts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("base", "a", "b")):
        save_model(tmp_path / name, {f"t{i}": torch.full((20,), float(number + i)) for i in range(4)}, {})
    start = [f"base={tmp_path / 'base'}", *(f"experts.{n}={tmp_path / n}" for n in "ab"), "method=task_arithmetic"]
    recipe = Recipe.load(None, [*start, "output.shard_bytes=160", "runtime.launcher=processes", "runtime.threads=1"])

    def here(jobs: Any, launcher: Any, threads: int) -> Any:
        yield from ((number, perform(job)) for number, job in enumerate(jobs))

    monkeypatch.setitem(LAUNCHERS, "processes", here)
    merge(recipe, tmp_path / "sound", in_parts=in_parts, digest=True)
    real = os.pwrite

    def losing(descriptor: int, content: Any, offset: int) -> int:
        lost = bytes(content) if len(content) != 80 else b"\0" * 80
        return real(descriptor, lost, offset)

    monkeypatch.setattr(os, "pwrite", losing)
    merge(recipe, tmp_path / "unasked", in_parts=in_parts)
    with pytest.raises(OutputError, match="other bytes are read back"):
        merge(recipe, tmp_path / "asked", in_parts=in_parts, digest=True)
    assert not [*tmp_path.glob("asked*")]
