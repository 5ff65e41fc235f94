"""Memory of mapped files: it is given back where a budget asks for it, and what was read stays readable."""

import mmap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from checkpoints import save_model
from fusionbench.config import Recipe
from fusionbench.merge import merge
from fusionbench.weights import bounded as module
from fusionbench.weights import mapped_memory
from fusionbench.weights.bounded import BoundedSource, bounded
from fusionbench.weights.headers import Source
from fusionbench.weights.mapped_memory import give_back
from fusionbench.weights.plan import Plan
from fusionbench.weights.safetensors import SafetensorsSource, open_safetensors

ENTRIES = 1 << 20
linux = pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="memory is given back on Linux only")


def model(folder: Path, seed: int) -> SafetensorsSource:
    generator = torch.Generator().manual_seed(seed)
    save_model(folder, {f"t{i}": torch.randn(ENTRIES, generator=generator) for i in range(2)}, {"model_type": "x"})
    source = open_safetensors("m", folder)
    assert source is not None
    return source


def held(path: Path) -> int:
    """Bytes of a file that this process holds in memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@linux
def test_a_thread_holds_what_it_read_last_and_what_it_read_before_stays_readable(tmp_path: Path) -> None:
    source = model(tmp_path / "m", 0)
    file = tmp_path / "m" / "model.safetensors"
    kept = BoundedSource(source)
    first = kept.read("t0")
    expected = bytes(first)
    assert held(file) >= len(expected)
    second = kept.read("t1", 0, 100)
    assert len(bytes(second)) == 400
    assert held(file) < len(expected) / 2
    assert bytes(first) == expected
    assert (kept.label, kept.fingerprint(), kept.folder) == ("m", source.fingerprint(), tmp_path / "m")
    assert (dict(kept.specs), kept.config) == (dict(source.specs), {"model_type": "x"})


@linux
def test_what_the_system_maps_around_what_is_read_is_given_back_too(
    tmp_path: Path,
) -> None:
    kept = BoundedSource(model(tmp_path / "m", 0))
    total = 0
    for name in ("t0", "t1"):
        for start in range(0, ENTRIES, 1 << 13):
            total += len(bytes(kept.read(name, start, start + (1 << 13))))
    assert total == 8 * ENTRIES
    # What was read last, and what was mapped after it.
    assert held(tmp_path / "m" / "model.safetensors") <= 2 * module.REGION_BYTES


@linux
def test_parts_of_a_tensor_and_all_of_a_file_are_given_back(tmp_path: Path) -> None:
    (file,) = model(tmp_path / "m", 0).files
    assert len(bytes(file.read("t0")) + bytes(file.read("t1"))) == 8 * ENTRIES
    whole = held(file.path)
    file.let_go("t0", 0, ENTRIES // 2)
    # Where the system maps large pages, more than the half goes.
    assert whole - held(file.path) >= 2 * ENTRIES - (1 << 17)
    file.let_all_go()
    assert held(file.path) == 0


def test_what_is_no_mapping_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    give_back(b"abc", 0, 3)
    anonymous = mmap.mmap(-1, mmap.PAGESIZE)
    anonymous[:1] = b"x"
    give_back(anonymous, 5, 5)
    monkeypatch.delattr(mapped_memory.mmap, "MADV_DONTNEED", raising=False)
    give_back(anonymous, 0, mmap.PAGESIZE)
    assert anonymous[:1] == b"x"


def test_only_a_budget_asks_for_it_and_only_mapped_files_can(tmp_path: Path) -> None:
    source = model(tmp_path / "m", 0)
    other: Source = BoundedSource(source)
    plan = Plan((source, other), (), ())
    assert bounded(plan, None) is plan
    first, second = bounded(plan, 10**9).sources
    assert isinstance(first, BoundedSource)
    assert second is other


@pytest.mark.parametrize("method", ["ties", "tsv_m"])
def test_a_budget_changes_no_number_and_gives_back_every_model(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("base", "a", "b")):
        model(tmp_path / name, number)
    monkeypatch.setattr(module, "REGION_BYTES", 1 << 16)
    given: set[str] = set()
    real: Callable[..., None] = SafetensorsSource.let_go

    def noted(self: SafetensorsSource, *part: object) -> None:
        given.add(self.label)
        real(self, *part)

    monkeypatch.setattr(SafetensorsSource, "let_go", noted)
    start = [f"base={tmp_path / 'base'}", f"experts.a={tmp_path / 'a'}", f"experts.b={tmp_path / 'b'}"]
    start += [f"method={method}", "runtime.threads=1"]
    merge(Recipe.load(None, start), tmp_path / "plain")
    assert given == set()
    merge(Recipe.load(None, [*start, "runtime.memory=1GB"]), tmp_path / "bounded")
    assert given == {start[0].partition("=")[2], *(text.partition("=")[2] for text in start[1:3])}
    one, two = (tmp_path / name / "model.safetensors" for name in ("plain", "bounded"))
    assert one.read_bytes() == two.read_bytes()
