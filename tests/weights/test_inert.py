"""Files that want to run something, and files that lie: nothing is imported, nothing runs, every one is refused."""

import io
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from fusionbench.errors import CheckpointError
from fusionbench.weights.inert import Record, StoredTensor, unpickled
from fusionbench.weights.sources import open_source
from tiny_open_clip import VANISHED, make_encoder, write_module

FORMS = ["pickle", "zip", "stream"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def as_module(where: str, item: object) -> nn.Module:
    """A module in which something stands where a tensor, a part or an attribute should."""
    module = nn.Linear(2, 1)
    module.__dict__[where] = {"weight": item} if where.startswith("_") else item
    return module


@pytest.mark.parametrize("form", FORMS)
def test_objects_are_records_and_tensors_are_read_from_their_places(form, tmp_path):
    encoder = make_encoder(0)
    write_module({"encoder": encoder, "epoch": 3}, tmp_path / "all.pt", form)
    found = unpickled(tmp_path / "all.pt")
    assert VANISHED not in sys.modules
    assert found["epoch"] == 3
    record = found["encoder"]
    assert isinstance(record, Record)
    assert record.origin == f"{VANISHED}.ImageEncoder"
    visual = record.attributes["_modules"]["model"].attributes["_modules"]["visual"]
    stored = visual.attributes["_parameters"]["proj"]
    assert isinstance(stored, StoredTensor)
    assert torch.equal(stored.load(), encoder.model.visual.proj.detach())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_every_kind_of_number_keeps_its_bits(form, kind, tmp_path):
    tensor = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(kind).T
    write_module([tensor, tensor[1:]], tmp_path / "numbers.pt", form)
    whole, part = unpickled(tmp_path / "numbers.pt")
    assert torch.equal(whole.load(), tensor)
    assert torch.equal(part.load(), tensor[1:])
    assert part.load().dtype == kind


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["_parameters", "_buffers", "_modules", "anything"])
def test_a_file_that_wants_to_run_something_is_refused_and_does_not(form, where, tmp_path):
    ran = tmp_path / "ran"
    module = as_module(where, Calls(open, str(ran), "w"))
    write_module(module, tmp_path / "model.pt", form)
    with pytest.raises(CheckpointError, match=r"asks for _?io\.open, which no model needs"):
        open_source(tmp_path / "model.pt")
    assert not ran.exists()


@pytest.mark.parametrize("name", ["os.system", "posix.system", "subprocess.Popen", "builtins.exec", "runpy.run_path"])
def test_what_no_model_needs_is_refused_by_name(name, tmp_path):
    module, _, function = name.rpartition(".")
    content = f"c{module}\n{function}\n(S'touch {tmp_path}/ran'\ntR.".encode()
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"asks for {module}.{function}, which no model needs"):
        unpickled(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


def test_a_class_that_would_be_found_is_not_imported_either(tmp_path):
    assert "antigravity" not in sys.modules
    (tmp_path / "model.pt").write_bytes(b"cantigravity\nfly\n)R.")
    assert isinstance(unpickled(tmp_path / "model.pt"), Record)
    assert "antigravity" not in sys.modules


def test_what_one_file_does_to_a_class_is_not_seen_by_the_next(tmp_path):
    # BUILD with slots sets an attribute on whatever it is given: here on the stand-in class itself.
    content = b"csome.code\nThing\n(NS'origin'\nS'changed'\nstd\x86b."
    (tmp_path / "first.pt").write_bytes(
        b"\x80\x02csome.code\nThing\nN}X\x06\x00\x00\x00originX\x01\x00\x00\x00xs\x86b."
    )
    (tmp_path / "odd.pt").write_bytes(content)
    for name in ("first.pt", "odd.pt"):
        with pytest.raises(CheckpointError, match="refused"):
            unpickled(tmp_path / name)
    assert Record.origin == ""
    (tmp_path / "second.pt").write_bytes(b"csome.code\nThing\n)R.")
    assert unpickled(tmp_path / "second.pt").origin == "some.code.Thing"


def bytes_of(count: int) -> torch.UntypedStorage:
    return torch.arange(count, dtype=torch.uint8).untyped_storage()


def tensor_of(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Calls:
    return Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, {})


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (9,), (1,)), (3, (2,), (1,)), (0, (2,), (9,)), (0, (10**6,), (0,)), (10**9, (1,), (1,))],
    ids=["too many", "behind the end", "too far apart", "one entry a million times", "far away"],
)
def test_a_tensor_that_does_not_lie_in_its_storage_is_refused(offset, size, stride, tmp_path):
    module = as_module("_parameters", tensor_of(bytes_of(4), offset, size, stride))
    write_module(module, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="the tensor weight cannot be read"):
        open_source(tmp_path / "model.pt")


def test_a_negative_place_is_refused(tmp_path):
    module = as_module("_parameters", tensor_of(bytes_of(2), -1, (1,), (1,)))
    write_module(module, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="describes a tensor wrongly"):
        open_source(tmp_path / "model.pt")


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_is_cut_off_anywhere_is_refused(form, tmp_path):
    write_module(nn.Linear(3, 2), tmp_path / "model.pt", form)
    raw = (tmp_path / "model.pt").read_bytes()
    for cut in range(0, len(raw) - 1, max(37, len(raw) // 40)):
        (tmp_path / "cut.pt").write_bytes(raw[:cut])
        with pytest.raises(CheckpointError, match=r"cut\.pt"):
            open_source(tmp_path / "cut.pt")


def test_a_zip_whose_parts_are_compressed_is_refused(tmp_path):
    write_module(nn.Linear(3, 2), tmp_path / "model.pt", "zip")
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as whole,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match="compressed"):
        unpickled(tmp_path / "packed.pt")


def test_a_storage_that_holds_no_storage_is_refused(tmp_path):
    stream = io.BytesIO()
    torch.save({"a": torch.ones(2)}, stream, _use_new_zipfile_serialization=False)
    content = pickle.dumps(Calls(torch.storage._load_from_bytes, stream.getvalue()))
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="describes a storage wrongly"):
        unpickled(tmp_path / "model.pt")
