"""Disks that are full or read-only, inputs that vanish or rot: one clear error, nothing partial, and then it goes."""

import contextlib
import resource
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from dying import digests

from checkpoints import save_model
from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, FusionBenchError, OutputError
from fusionbench.merge import merge
from fusionbench.provenance import verify
from limited import said_in_a_child

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
ENTRIES = 4096


@pytest.fixture
def models(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "a", "b"):
        tensors = {f"layer{number}.weight": torch.randn(ENTRIES, generator=generator) for number in range(3)}
        save_model(tmp_path / name, tensors, {"model_type": "toy"})
    return tmp_path


def recipe(models: Path) -> Recipe:
    experts = [f"experts.{name}={models / name}" for name in "ab"]
    start = [f"base={models / 'base'}", *experts, "runtime.threads=1", "method=task_arithmetic", "method.scale=0.5"]
    return Recipe.load(None, start)


@pytest.mark.parametrize("limit", [1, 300, 5000, 20000, 3 * 4 * ENTRIES])
def test_a_file_that_may_not_grow_is_an_error_and_leaves_nothing(models: Path, limit: int) -> None:
    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        merge(recipe(models), models / "out")

    words = said_in_a_child(limited)
    assert words.startswith("OutputError: ")
    assert str(models / "out") in words
    assert digests(models / "out") == {}
    assert not (models / "out.partial").exists()
    merge(recipe(models), models / "out")
    assert (models / "out" / "model.safetensors").is_file()


def test_a_real_full_disk_is_an_error_and_leaves_nothing(models: Path, small_disk: Path) -> None:
    with pytest.raises(OutputError, match=r"needs .* bytes, .* are free"):
        merge(recipe(models), small_disk / "out")
    assert list(small_disk.iterdir()) == []


def test_a_real_disk_that_fills_up_meanwhile_is_an_error_and_leaves_nothing(
    models: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    # What is asked beforehand is answered as if somebody else took the room later.
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(1 << 40, 0, 1 << 40))
    with pytest.raises(OutputError, match="is full"):
        merge(recipe(models), small_disk / "out")
    assert list(small_disk.iterdir()) == []


def test_a_real_read_only_disk_is_an_error(models: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputError, match="cannot be written: Read-only file system"):
        merge(recipe(models), small_disk / "out")


def test_an_input_that_vanished_is_named(models: Path) -> None:
    (models / "b" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=str(models / "b")):
        merge(recipe(models), models / "out")
    assert not (models / "out").exists()


def test_an_input_that_vanishes_while_it_is_read_leaves_nothing_partial(models: Path) -> None:
    merge(recipe(models), models / "whole")
    file, away = models / "b" / "model.safetensors", models / "away"

    def remove(what: str, done: int, total: int) -> None:
        if file.exists():
            file.rename(away)

    # What is open already may be read to its end, or missed when it is digested.
    with contextlib.suppress(CheckpointError):
        merge(recipe(models), models / "out", remove)
    assert away.exists()
    assert digests(models / "out") in ({}, digests(models / "whole"))
    away.rename(file)
    if not (models / "out").exists():
        merge(recipe(models), models / "out")
    assert digests(models / "out") == digests(models / "whole")


def test_a_corrupted_byte_of_an_input_is_found_or_changes_only_what_was_read(models: Path) -> None:
    merge(recipe(models), models / "out", digest=True)
    path = models / "b" / "model.safetensors"
    content = bytearray(path.read_bytes())
    for where in range(0, len(content), 997):
        damaged = bytearray(content)
        damaged[where] ^= 0x40
        path.write_bytes(damaged)
        try:
            found = verify(models / "out")
        except FusionBenchError:
            continue
        assert any("b" in line for line in found.inputs), f"byte {where}"
        assert found.outputs == ()
