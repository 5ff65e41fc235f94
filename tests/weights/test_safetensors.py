import json
import struct
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.torch import save

from checkpoints import entry, raw_safetensors, save_model
from fusionbench.errors import CheckpointError
from fusionbench.weights import safetensors
from fusionbench.weights.headers import NUMPY, entries
from fusionbench.weights.safetensors import SafetensorsFile, open_safetensors, read_config

TWO = {"a": entry("F32", [2], 0, 8), "b": entry("I16", [2, 2], 8, 16)}
VALID = raw_safetensors(TWO, bytes(range(16)))

HOSTILE = {
    "nothing at all": (b"", "too short"),
    "less than a length": (b"1234567", "too short"),
    "a length and no header": (struct.pack("<Q", 0), "corrupt header"),
    "a header cut short": (VALID[:30], "truncated"),
    "a header longer than the file": (raw_safetensors(TWO, bytes(16), length=10_000), "10,000 bytes"),
    "a header of more bytes than there are": (raw_safetensors(TWO, bytes(16), length=2**64 - 1), "truncated"),
    "a header that ends too early": (raw_safetensors(TWO, bytes(16), length=20), "corrupt header"),
    "data cut short": (VALID[:-1], "truncated"),
    "data left over": (VALID + b"\0", "left over"),
    "text instead of a header": (raw_safetensors(b"hello there"), "corrupt header"),
    "bytes that are no text": (raw_safetensors(b"\xff\xfe{}"), "corrupt header"),
    "a list": (raw_safetensors([]), "corrupt header"),
    "a number": (raw_safetensors(5), "corrupt header"),
    "null": (raw_safetensors(None), "corrupt header"),
    "brackets without end": (raw_safetensors(b"[" * 200_000), "corrupt header"),
    "a tensor twice": (raw_safetensors(b'{"a":1,"a":2}'), "twice"),
    "a field twice": (raw_safetensors(b'{"a":{"dtype":"F32","dtype":"F16"}}'), "twice"),
    "an unknown kind": (raw_safetensors({"a": entry("C64", [1], 0, 8)}, bytes(8)), "unknown kind C64"),
    "a kind that is a list": (raw_safetensors({"a": entry(["F32"], [1], 0, 4)}, bytes(4)), "corrupt header"),
    "no kind": (raw_safetensors({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "dtype"),
    "no shape": (raw_safetensors({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)), "shape"),
    "no place": (raw_safetensors({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), "data_offsets"),
    "three offsets": (raw_safetensors({"a": {**entry("F32", [1], 0, 4), "data_offsets": [0, 4, 4]}}, bytes(4)), ""),
    "a negative size": (raw_safetensors({"a": entry("F32", [-1], 0, -4)}), "does not fill"),
    "two negative sizes": (raw_safetensors({"a": entry("F32", [-1, -1], 0, 4)}, bytes(4)), "does not fill"),
    "a size that is no number": (raw_safetensors({"a": entry("F32", ["1"], 0, 4)}, bytes(4)), "does not fill"),
    "a size of one and a half": (raw_safetensors({"a": entry("F32", [1.0], 0, 4)}, bytes(4)), "does not fill"),
    "a size that is true": (raw_safetensors({"a": entry("F32", [True], 0, 4)}, bytes(4)), "does not fill"),
    "a shape that is text": (raw_safetensors({"a": entry("F32", "1", 0, 4)}, bytes(4)), "does not fill"),
    "a size of billions": (raw_safetensors({"a": entry("F32", [2**62, 2**62], 0, 4)}, bytes(4)), "does not fill"),
    "an end before the begin": (raw_safetensors({"a": entry("F32", [1], 4, 0)}, bytes(4)), "does not fill"),
    "too few bytes": (raw_safetensors({"a": entry("F32", [2], 0, 4)}, bytes(4)), "does not fill"),
    "an overlap": (raw_safetensors({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)), "b beg"),
    "one place for two": (raw_safetensors({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, bytes(4)), "b"),
    "a hole": (raw_safetensors({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, bytes(12)), "not at 4"),
    "a hole at the begin": (raw_safetensors({"a": entry("F32", [1], 4, 8)}, bytes(8)), "not at 0"),
    "metadata that is text": (raw_safetensors({"__metadata__": "pt", **TWO}, bytes(16)), "__metadata__"),
    "metadata that is an empty list": (raw_safetensors({"__metadata__": [], **TWO}, bytes(16)), "__metadata__"),
    "metadata that is false": (raw_safetensors({"__metadata__": False, **TWO}, bytes(16)), "__metadata__"),
    "metadata of numbers": (raw_safetensors({"__metadata__": {"a": 1}, **TWO}, bytes(16)), "__metadata__"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_damaged_file_is_refused_by_its_name(case, tmp_path):
    content, words = HOSTILE[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        SafetensorsFile(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "model.safetensors"


def accepted(path, content: bytes) -> SafetensorsFile | None:
    """The opened file, or None where it was refused; any other error fails the test."""
    path.write_bytes(content)
    try:
        return SafetensorsFile(path)
    except CheckpointError:
        return None


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 20), st.floats(), st.text(max_size=3))
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
)
NEARLY = st.fixed_dictionaries(
    {
        "dtype": st.one_of(st.sampled_from(["F32", "BF16", "BOOL", "I64", "F8_E4M3", "X"]), JUNK),
        "shape": st.one_of(st.lists(st.integers(-1, 4), max_size=3), JUNK),
        "data_offsets": st.one_of(st.tuples(st.integers(-1, 20), st.integers(-1, 20)), JUNK),
    }
)
HEADERS = st.dictionaries(st.one_of(st.sampled_from(["a", "b", "__metadata__"]), st.text(max_size=3)), NEARLY | JUNK)


@given(content=st.binary(max_size=64))
def test_arbitrary_bytes_are_refused_or_read_and_nothing_else_happens(place, content):
    file = accepted(place, content)
    assert file is None or file.specs == {}


@settings(max_examples=300)
@given(header=HEADERS, size=st.integers(0, 24))
def test_arbitrary_headers_are_refused_or_read_as_the_safetensors_library_reads_them(place, header, size):
    content = raw_safetensors(header, bytes(range(size)))
    compare_with_the_library(content, accepted(place, content))


@settings(max_examples=300)
@given(places=st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), max_size=3), cut=st.integers(0, 3))
def test_a_file_with_some_bytes_changed_is_refused_or_read_as_the_safetensors_library_reads_it(place, places, cut):
    content = bytearray(save({"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.bfloat16)}))
    for where, value in places:
        content[where] = value
    content = bytes(content[: len(content) - cut])
    compare_with_the_library(content, accepted(place, content))


def compare_with_the_library(content: bytes, file: SafetensorsFile | None) -> None:
    if file is None:
        return
    theirs = {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in deserialize(content)}
    ours = {n: (s.dtype, s.shape, bytes(file.read(n)) if s.nbytes else b"") for n, s in file.specs.items()}
    assert ours == theirs


def test_headers_are_accepted_where_they_are_true(place):
    kinds = dict.fromkeys(NUMPY, (2, 3))
    header, at = {}, 0
    for name, shape in kinds.items():
        size = 6 * torch.tensor([], dtype=KINDS[name]).element_size()
        header[name] = entry(name, list(shape), at, at + size)
        at += size
    file = accepted(place, raw_safetensors(header, bytes(at)))
    assert file is not None
    assert {name: spec.nbytes for name, spec in file.specs.items()} == {
        name: 6 * torch.tensor([], dtype=KINDS[name]).element_size() for name in kinds
    }


KINDS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def test_entries_are_read_from_any_place_of_a_tensor(tmp_path):
    save_model(tmp_path, {"a": torch.arange(6, dtype=torch.int16).view(2, 3), "b": torch.tensor(7.5)})
    source = open_safetensors("m", tmp_path)
    assert entries(source, source.specs["a"]).tolist() == [0, 1, 2, 3, 4, 5]
    assert entries(source, source.specs["a"], 2, 5).tolist() == [2, 3, 4]
    assert entries(source, source.specs["a"], 4).tolist() == [4, 5]
    assert entries(source, source.specs["b"]).tolist() == [7.5]


def test_what_is_read_cannot_be_written_to(tmp_path):
    save_model(tmp_path, {"a": torch.zeros(3)})
    source = open_safetensors("m", tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        entries(source, source.specs["a"])[0] = 1.0


def test_data_need_not_begin_at_a_multiple_of_its_size(tmp_path):
    path = tmp_path / "odd.safetensors"
    header = json.dumps({"a": entry("F32", [2], 0, 8)}).encode()
    header += b" " * (1 - len(header) % 2 + 1)
    header = header if len(header) % 2 else header + b" "
    path.write_bytes(raw_safetensors(header, struct.pack("<2f", 1.5, -2.0)))
    source = open_safetensors("m", path)
    assert (8 + len(header)) % 2 == 1
    assert entries(source, source.specs["a"]).tolist() == [1.5, -2.0]


def test_tensors_without_entries_are_read(tmp_path):
    save_model(tmp_path, {"none": torch.zeros(0, 4), "some": torch.ones(1)})
    source = open_safetensors("m", tmp_path)
    assert source.specs["none"].shape == (0, 4)
    assert entries(source, source.specs["none"]).tolist() == []


def test_a_folder_without_safetensors_is_left_to_others(tmp_path):
    assert open_safetensors("m", tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[1]", "3", "[" * 200_000], ids=range(4))
def test_a_configuration_that_is_no_object_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_configuration_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_missing_configuration_is_empty(tmp_path):
    assert read_config(tmp_path) == {}


def test_the_metadata_of_a_header_is_kept(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw_safetensors({"__metadata__": {"recipe": "ties"}, **TWO}, bytes(16)))
    assert open_safetensors("m", path).metadata == {"recipe": "ties"}


def test_metadata_may_be_null_as_for_the_safetensors_library(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw_safetensors({"__metadata__": None, **TWO}, bytes(16)))
    assert open_safetensors("m", path).metadata == {}


def test_a_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path):
    tensors = {"a": torch.arange(100.0), "b": torch.ones(3)}
    prints = [open_safetensors(name, save_model(tmp_path / name, tensors)).fingerprint() for name in ("x", "y")]
    assert prints[0] == prints[1]
    assert prints[0].startswith("fp:")


@pytest.mark.parametrize("changed", [{"a": torch.arange(100.0) + 1e-6}, {"c": torch.arange(100.0)}])
def test_a_fingerprint_differs_where_an_entry_or_a_name_does(changed, tmp_path):
    one = open_safetensors("x", save_model(tmp_path / "x", {"a": torch.arange(100.0)}))
    other = open_safetensors("y", save_model(tmp_path / "y", changed))
    assert one.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("changed", [f"layer{number}.{part}" for number in range(8) for part in ("bias", "weight")])
def test_a_fingerprint_sees_a_change_of_any_one_tensor_of_a_file_that_it_samples(changed, tmp_path, monkeypatch):
    # As in a file of gigabytes: two blocks do not come to every tensor, and no weight is as small as a block.
    for name, value in {"SAMPLES": 2, "SAMPLE_BYTES": 64, "PAGE_BYTES": 8}.items():
        monkeypatch.setattr(safetensors, name, value)
    sizes = {"bias": 4, "weight": 40}
    tensors = {f"layer{number}.{part}": torch.zeros(size) for number in range(8) for part, size in sizes.items()}
    one = open_safetensors("x", save_model(tmp_path / "x", tensors))
    # All of a weight, as training leaves it; of a bias a single entry.
    tensors[changed] = tensors[changed] + (torch.arange(4) == 3 if "bias" in changed else 1)
    other = open_safetensors("y", save_model(tmp_path / "y", tensors))
    assert one.fingerprint() != other.fingerprint()


def test_a_fingerprint_reads_no_more_of_a_large_file_than_its_samples(tmp_path, monkeypatch):
    for name, value in {"SAMPLES": 2, "SAMPLE_BYTES": 64, "PAGE_BYTES": 8}.items():
        monkeypatch.setattr(safetensors, name, value)
    path = save_model(tmp_path / "x", {"bias": torch.zeros(4), "weight": torch.zeros(10000)}) / "model.safetensors"
    found = SafetensorsFile(path)
    heard = []
    found.digest(SimpleNamespace(update=lambda part: heard.append(len(part))))
    assert heard[0] == len(found.header) + 8
    assert sum(heard[1:]) <= 3 * 64 + 16 + 8


def test_an_opened_file_is_digested_once(tmp_path, monkeypatch):
    heard = []
    original = SafetensorsFile.digest
    monkeypatch.setattr(SafetensorsFile, "digest", lambda self, hasher: (heard.append(1), original(self, hasher)))
    source = open_safetensors("x", save_model(tmp_path / "x", {"a": torch.zeros(4)}))
    assert source.fingerprint() == source.fingerprint() == source.files[0].fingerprint
    assert heard == [1]
