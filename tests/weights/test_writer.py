import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import transformers
from checkpoints import read_model
from safetensors import safe_open

from fusionbench.errors import OutputError
from fusionbench.weights.headers import TensorSpec
from fusionbench.weights.safetensors import open_safetensors
from fusionbench.weights.writer import CheckpointWriter

SPECS = [TensorSpec("a", "F32", (2, 3)), TensorSpec("b", "BF16", (4,)), TensorSpec("c", "I64", ())]
CONTENT = {"a": struct.pack("<6f", *range(6)), "b": struct.pack("<4H", 0x3F80, 0, 0x4000, 0xC000), "c": b"\7" + bytes(7)}
VALUES = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.tensor([1.0, 0.0, 2.0, -2.0], dtype=torch.bfloat16),
    "c": torch.tensor(7),
}


def write(folder: Path, **options) -> None:
    with CheckpointWriter(folder, SPECS, metadata={"recipe": "ties"}, **options) as writer:
        for name, content in CONTENT.items():
            writer.write(name, content)


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(
        found[n].dtype == expected[n].dtype and torch.equal(found[n], expected[n]) for n in expected
    )


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_what_the_safetensors_library_reads(tmp_path):
    write(tmp_path / "out")
    assert same(read_model(tmp_path / "out"), VALUES)
    assert left(tmp_path) == ["out"]
    assert left(tmp_path / "out") == ["model.safetensors"]


def test_the_header_carries_the_metadata_and_says_which_library_loads_it(tmp_path):
    write(tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "recipe": "ties"}


def test_tensors_lie_in_the_given_order_and_begin_at_multiples_of_eight(tmp_path):
    write(tmp_path / "out")
    raw = (tmp_path / "out" / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    assert [(n, header[n]["data_offsets"]) for n in ("a", "b", "c")] == [("a", [0, 24]), ("b", [24, 32]), ("c", [32, 40])]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "two")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_names_outside_ascii_are_written_as_they_are(tmp_path):
    specs = [TensorSpec('größe."x"\\', "U8", (1,))]
    with CheckpointWriter(tmp_path / "out", specs, metadata={"ä": "日本"}) as writer:
        writer.write(specs[0].name, b"\5")
    assert read_model(tmp_path / "out")[specs[0].name].tolist() == [5]


def test_entries_may_come_in_pieces_and_in_any_order(tmp_path):
    with CheckpointWriter(tmp_path / "out", SPECS, metadata={}) as writer:
        writer.write("c", CONTENT["c"])
        writer.write("a", CONTENT["a"][16:], start=4)
        writer.write("b", memoryview(CONTENT["b"]))
        writer.write("a", CONTENT["a"][:16])
    assert same(read_model(tmp_path / "out"), VALUES)


def test_any_thread_may_write(tmp_path):
    size = 64
    specs = [TensorSpec(f"t{i}", "U8", (size,)) for i in range(8)]
    with CheckpointWriter(tmp_path / "out", specs, metadata={}, shard_bytes=200) as writer:

        def fill(number: int) -> None:
            for start in range(size):
                writer.write(f"t{number}", bytes([number]), start)

        threads = [threading.Thread(target=fill, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {n: set(t.tolist()) for n, t in read_model(tmp_path / "out").items()} == {f"t{i}": {i} for i in range(8)}


def test_tensors_without_entries_and_models_without_tensors_are_written(tmp_path):
    specs = [TensorSpec("none", "F32", (0, 3)), TensorSpec("one", "F32", (1,))]
    with CheckpointWriter(tmp_path / "out", specs, metadata={}) as writer:
        writer.write("none", b"")
        writer.write("one", struct.pack("<f", 2.5))
    found = read_model(tmp_path / "out")
    assert found["none"].shape == (0, 3)
    assert found["one"].tolist() == [2.5]
    with CheckpointWriter(tmp_path / "empty", [], metadata={}):
        pass
    assert read_model(tmp_path / "empty") == {}


def test_shards_hold_no_more_than_their_bytes_and_an_index_tells_where_everything_is(tmp_path):
    write(tmp_path / "out", shard_bytes=32)
    assert left(tmp_path / "out") == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index == {"metadata": {"total_size": 40}, "weight_map": {"a": first, "b": first, "c": second}}
    assert same(read_model(tmp_path / "out"), VALUES)
    assert set(open_safetensors("m", tmp_path / "out").specs) == {"a", "b", "c"}


def test_a_tensor_larger_than_a_shard_has_a_file_of_its_own(tmp_path):
    write(tmp_path / "out", shard_bytes=1)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3
    assert same(read_model(tmp_path / "out"), VALUES)


@pytest.mark.parametrize("shard_bytes", [5_000, 5_000_000])
def test_transformers_loads_what_is_written(shard_bytes, tmp_path):
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    state = model.state_dict()
    specs = [TensorSpec(name, "F32", tuple(tensor.shape)) for name, tensor in state.items()]
    with CheckpointWriter(
        tmp_path / "out", specs, metadata={}, shard_bytes=shard_bytes, finish=config.save_pretrained
    ) as writer:
        for name, tensor in state.items():
            writer.write(name, tensor.numpy().tobytes())
    loaded, report = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert same(dict(loaded.state_dict()), dict(state))


def test_other_files_are_there_when_the_folder_appears(tmp_path):
    def finish(partial: Path) -> None:
        assert not (tmp_path / "out").exists()
        (partial / "config.json").write_text("{}")

    write(tmp_path / "out", finish=finish)
    assert left(tmp_path / "out") == ["config.json", "model.safetensors"]


def test_nothing_is_touched_before_the_writer_is_entered(tmp_path):
    CheckpointWriter(tmp_path / "new" / "out", SPECS, metadata={})
    assert left(tmp_path) == []


def test_folders_above_are_made(tmp_path):
    write(tmp_path / "x" / "y" / "out")
    assert left(tmp_path / "x" / "y") == ["out"]


class Stop(BaseException):
    """Neither an error nor an exit."""


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stop, SystemExit])
def test_an_exception_leaves_nothing_behind(error, tmp_path):
    def interrupted() -> None:
        with CheckpointWriter(tmp_path / "out", SPECS, metadata={}) as writer:
            writer.write("a", CONTENT["a"])
            raise error

    with pytest.raises(error):
        interrupted()
    assert left(tmp_path) == []


def test_an_exception_while_finishing_leaves_nothing_behind(tmp_path):
    def finish(partial: Path) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        write(tmp_path / "out", finish=finish)
    assert left(tmp_path) == []


def test_no_file_stays_open_after_an_exception(tmp_path):
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(3):
        with pytest.raises(ValueError), CheckpointWriter(tmp_path / "out", SPECS, metadata={}, shard_bytes=1):
            raise ValueError
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after == before


KILLED = """
import sys, time
from pathlib import Path
from fusionbench.weights.headers import TensorSpec
from fusionbench.weights.writer import CheckpointWriter
with CheckpointWriter(Path(sys.argv[1]), [TensorSpec("a", "U8", (4,))], metadata={}) as writer:
    writer.write("a", b"1234")
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_writer_that_is_killed_leaves_no_model_and_does_not_stand_in_the_way(number, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    process.send_signal(number)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "out").exists()
    write(tmp_path / "out")
    assert left(tmp_path) == ["out"]
    assert same(read_model(tmp_path / "out"), VALUES)


def refused(folder: Path, **options) -> str:
    with pytest.raises(OutputError) as error:
        write(folder, **options)
    return str(error.value)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch], ids=["folder", "file"])
def test_what_exists_is_never_written_over(make, tmp_path):
    make(tmp_path / "out")
    message = refused(tmp_path / "out")
    assert f"{tmp_path / 'out'} exists" in message
    assert left(tmp_path) == ["out"]


@pytest.mark.parametrize("folder", [".", "..", "/", "./"])
def test_a_folder_that_is_always_there_is_never_written_over(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "exists" in refused(Path(folder))
    assert left(tmp_path) == []


def test_a_file_in_the_path_is_an_error_that_names_the_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    message = refused(tmp_path / "file" / "below" / "out")
    assert str(tmp_path / "file" / "below" / "out") in message
    assert "Choose another folder" in message
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_that_is_too_long_is_an_error(tmp_path):
    for length in (250, 3000):
        assert "cannot be written" in refused(tmp_path / ("x" * length))
        assert left(tmp_path) == []


def test_a_folder_that_appears_meanwhile_is_not_written_over(tmp_path):
    def finish(partial: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("kept")

    assert str(tmp_path / "out") in refused(tmp_path / "out", finish=finish)
    assert left(tmp_path) == ["out"]
    assert left(tmp_path / "out") == ["mine"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_that_may_not_be_written_is_an_error(number, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    message = refused(tmp_path / "out")
    assert os.strerror(number) in message
    assert str(tmp_path / "out") in message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
def test_a_full_disk_is_an_error_and_leaves_nothing_behind(call, number, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    message = refused(tmp_path / "out")
    assert f"The disk of {tmp_path / 'out'} is full" in message
    assert left(tmp_path) == []


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 61, 39))
    assert "needs 40 bytes, 39 are free" in refused(tmp_path / "out")
    assert left(tmp_path) == []


def test_a_disk_that_fills_while_tensors_are_written_is_an_error(tmp_path, monkeypatch):
    real, calls = os.pwrite, []

    def until_full(descriptor, content, offset):
        calls.append(offset)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", until_full)
    assert "is full" in refused(tmp_path / "out")
    assert left(tmp_path) == []


def test_a_write_that_stops_short_is_gone_on_with(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, content, offset: real(descriptor, bytes(content)[:3], offset))
    with CheckpointWriter(tmp_path / "out", SPECS, metadata={}) as writer:
        for name, content in CONTENT.items():
            writer.write(name, content)
    assert same(read_model(tmp_path / "out"), VALUES)


def test_an_error_that_is_not_of_the_disk_is_left_as_it_is(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(OSError, match="Bad file descriptor"):
        write(tmp_path / "out")
    assert left(tmp_path) == []


def test_space_is_taken_where_the_system_cannot_reserve_it(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    write(tmp_path / "out")
    assert same(read_model(tmp_path / "out"), VALUES)


def test_leftovers_of_a_killed_writer_are_replaced(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "model.safetensors").write_text("half")
    write(tmp_path / "out")
    assert left(tmp_path) == ["out"]


def test_the_bytes_of_all_tensors_are_counted(tmp_path):
    assert CheckpointWriter(tmp_path / "out", SPECS, metadata={}).total_bytes == 40
