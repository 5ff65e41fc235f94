"""Files that would fill the memory: refused within a bound of it, by an error that names them."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from checkpoints import entry, raw_safetensors
from fusionbench.config import Recipe
from fusionbench.mixing.blueprint import read_blueprint
from fusionbench.weights.adapters.configuration import read_adapter_config
from fusionbench.weights.headers import entries
from fusionbench.weights.lock import read_lock
from fusionbench.weights.sources import open_source
from limited import said_in_a_child

BOUND = 300_000_000
"""Bytes of memory that a refusal may take, for files that would take gigabytes."""
HUGE = 8_000_000_000

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def refused(read: object, path: Path, bound: int = BOUND) -> str:
    said = said_in_a_child(lambda: read(path), bound)  # type: ignore[operator]
    assert said.startswith(("CheckpointError: ", "ConfigError: ")), said
    assert str(path) in said
    return said


def sparse(path: Path, size: int, begin: bytes = b"") -> Path:
    """A file of so many bytes, of which the disk holds next to none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(begin)
        file.truncate(size)
    return path


@pytest.mark.parametrize("claimed", [2**63, HUGE - 8, 100_000_001])
def test_a_header_of_gigabytes_is_refused_unread(claimed: int, tmp_path: Path) -> None:
    path = sparse(tmp_path / "model.safetensors", HUGE, struct.pack("<Q", claimed))
    assert f"{claimed:,} bytes" in refused(open_source, path)


def test_a_header_as_long_as_the_format_allows_that_says_nothing_is_refused(tmp_path: Path) -> None:
    path = sparse(tmp_path / "model.safetensors", HUGE, struct.pack("<Q", 100_000_000))
    assert "corrupt header" in refused(open_source, path)


@pytest.mark.parametrize("part", [b"[],", b"{},", b"[[[", b'"ab",', b"0.1,"])
def test_a_header_of_millions_of_small_things_is_refused(part: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw_safetensors(b'{"a":[' + part * (3_000_000 // len(part)) + b"0]}"))
    # As many as would take more than these bytes, or, of the cheaper ones, nearly as many.
    assert "corrupt header" in refused(open_source, path, BOUND // 5)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000])
def test_numbers_that_are_none_are_refused_wherever_they_stand(number: bytes, tmp_path: Path) -> None:
    for header in (
        b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[%s,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,%s]}}',
        b'{"a":%s}',
        b'{"__metadata__":{"a":%s}}',
    ):
        path = tmp_path / "model.safetensors"
        path.write_bytes(raw_safetensors(header % number, bytes(4)))
        assert "corrupt header" in refused(open_source, path)


def test_a_tensor_larger_than_all_memory_is_opened_and_looked_at_in_place(tmp_path: Path) -> None:
    count = HUGE // 4
    begin = raw_safetensors({"a": entry("F32", [count], 0, 4 * count)})
    path = sparse(tmp_path / "model.safetensors", len(begin) + 4 * count, begin)

    def look() -> None:
        source = open_source(path)
        assert source.specs["a"].size == count
        assert source.fingerprint().startswith("fp:")
        assert not entries(source, source.specs["a"], count - 2).any()

    # What is mapped is counted by the limit, and takes no memory.
    assert said_in_a_child(look, HUGE + BOUND) == ""


def opened_lock(path: Path) -> object:
    return read_lock(path.parent)


def opened_folder(path: Path) -> object:
    return open_source(path.parent).config


def opened_blueprint(path: Path) -> object:
    return read_blueprint(path.parent)


def opened_adapter(path: Path) -> object:
    return read_adapter_config(path.parent)


DOCUMENTS = {
    "model.safetensors.index.json": open_source,
    "pytorch_model.bin.index.json": open_source,
    "config.json": opened_folder,
    "adapter_config.json": opened_adapter,
    "fusion_config.json": opened_blueprint,
    "fusion.lock.json": opened_lock,
    "recipe.yaml": Recipe.load,
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_of_gigabytes_is_refused_unread(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(raw_safetensors({"a": entry("F32", [1], 0, 4)}, bytes(4)))
    assert "8,000,000,000 bytes" in refused(DOCUMENTS[name], sparse(tmp_path / name, HUGE))


def zipped(path: Path, parts: dict[str, bytes], kind: int) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in parts.items():
            archive.writestr(f"archive/{name}", content)
    return path


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as part:
        for _ in range(400):
            part.write(bytes(2_000_000))
    assert bomb.stat().st_size < 3_000_000
    assert "compressed" in refused(open_source, bomb)


def test_a_zip_bomb_in_a_storage_is_refused_too(tmp_path: Path) -> None:
    plain, bomb = tmp_path / "plain.bin", tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(10_000_000)}, plain)
    with zipfile.ZipFile(plain) as held:
        parts = {name.partition("/")[2]: held.read(name) for name in held.namelist()}
    zipped(bomb, parts, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    assert "compressed" in refused(open_source, bomb)


def test_a_part_that_is_said_to_be_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(4)}, path)
    content = bytearray(path.read_bytes())
    # The sizes of data.pkl in the table at the end.
    place = content.index(b"PK\x01\x02")
    content[place + 20 : place + 28] = struct.pack("<II", 4_000_000_000, 4_000_000_000)
    path.write_bytes(content)
    refused(open_source, path)


def test_parts_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """As in the zip bombs that need no compression: a thousand names of one part."""
    path = zipped(tmp_path / "pytorch_model.bin", {"data.pkl": bytes(1_000_000)}, zipfile.ZIP_STORED)
    content = path.read_bytes()
    table, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    more = content[table:end] * 1000
    ending = bytearray(content[end:])
    ending[8:20] = struct.pack("<HHII", 1000, 1000, len(more), table)
    path.write_bytes(content[:table] + more + ending)
    assert "its parts are said to have 1,000,000,000 bytes" in refused(open_source, path)


@pytest.mark.parametrize(("legacy", "why"), [(False, "a has 1,000,000,000 entries"), (True, "mmap")])
def test_a_tensor_that_repeats_a_few_numbers_a_billion_times_is_refused(legacy: bool, why: str, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1).expand(10**9)}, path, _use_new_zipfile_serialization=not legacy)
    assert path.stat().st_size < 10_000
    assert why in refused(open_source, path)


class Grows:
    """Pickles as a call that would make a list of a billion entries."""

    def __reduce__(self) -> tuple[object, ...]:
        return (bytearray, (10**10,))


def test_a_pickle_that_would_take_all_memory_by_a_call_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": Grows()}, path)
    refused(open_source, path)
    path.write_bytes(pickle.dumps({"a": Grows()}))
    refused(open_source, path)


def test_a_pickle_that_doubles_itself_is_refused(tmp_path: Path) -> None:
    laughs: object = "ha"
    for _ in range(40):
        laughs = (laughs, laughs)
    stream = io.BytesIO()
    torch.save({"a": laughs}, stream)
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(stream.getvalue())
    refused(open_source, path)


def test_yaml_that_doubles_itself_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(lines))
    refused(Recipe.load, path)


def test_json_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 1_000_000)
    (tmp_path / "model.safetensors").write_bytes(raw_safetensors({"a": entry("F32", [1], 0, 4)}, bytes(4)))
    refused(opened_folder, tmp_path / "config.json")
    assert os.path.getsize(tmp_path / "config.json") == 1_000_000
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x"}))
    assert opened_folder(tmp_path / "config.json") == {"model_type": "x"}
