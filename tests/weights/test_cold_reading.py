"""The disk's speed is measured on parts of the inputs, which stay as they are."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from checkpoints import save_model
from fusionbench.weights import cold_reading
from fusionbench.weights.cold_reading import Part, available_memory, cold_speed
from fusionbench.weights.safetensors import open_safetensors
from fusionbench.weights.tensors import TensorSource


@pytest.fixture
def sources(tmp_path):
    sizes = {"a": 9000, "b": 3000}
    return [
        open_safetensors(name, save_model(tmp_path / name, {"w": torch.arange(n, dtype=torch.float32)}))
        for name, n in sizes.items()
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_every_byte_of_short_files_is_read_once_and_counted(threads, sources, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(cold_reading, "SECONDS", 1e9)
    monkeypatch.setattr(cold_reading, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(cold_reading, "PART", 1 << 14)
    before = [file.path.read_bytes() for source in sources for file in source.files]
    speed = cold_speed(sources, threads)
    calls = next(clock) - 1
    assert speed == sum(map(len, before)) / calls
    assert [file.path.read_bytes() for source in sources for file in source.files] == before


def test_the_first_parts_of_all_files_come_before_the_second_of_any(sources, monkeypatch):
    monkeypatch.setattr(cold_reading, "PART", 1 << 14)
    first, second = (source.files[0] for source in sources)
    found = list(cold_reading._parts([first.path, second.path, first.path]))
    assert found == [
        Part(first.path, 0, 1 << 14),
        Part(second.path, 0, second.size),
        Part(first.path, 1 << 14, 1 << 14),
        Part(first.path, 2 << 14, first.size - (2 << 14)),
    ]


def test_the_system_is_asked_to_let_go_of_what_is_read(sources, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *place: asked.append(place))
    cold_speed(sources, 1)
    assert asked == [(0, source.files[0].size, os.POSIX_FADV_DONTNEED) for source in sources]


def test_after_some_time_nothing_more_is_read(sources, monkeypatch):
    monkeypatch.setattr(cold_reading, "SECONDS", -1.0)
    assert cold_speed(sources, 1) is None


def test_models_in_memory_and_systems_without_such_a_request_have_no_speed(sources, monkeypatch):
    assert cold_speed([TensorSource("x", {"w": torch.zeros(3)})], 1) is None
    monkeypatch.delattr(os, "posix_fadvise")
    assert cold_speed(sources, 1) is None


def test_available_memory_is_what_linux_says(monkeypatch):
    said = {"text": "MemTotal:  10 kB\nMemAvailable:       7 kB\n"}
    monkeypatch.setattr(cold_reading, "Path", lambda _: SimpleNamespace(read_text=lambda: said["text"]))
    assert available_memory() == 7 * 1024
    said["text"] = "MemTotal:  10 kB\n"
    assert available_memory() is None
    monkeypatch.setattr(cold_reading, "Path", lambda _: Path("/nonexistent"))
    assert available_memory() is None
