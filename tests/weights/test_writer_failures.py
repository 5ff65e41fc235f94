"""A checkpoint appears whole or not at all: exceptions, killed processes, full disks, folders that are in the way."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from writing import CONTENT, SPECS, VALUES, left, same, write

from checkpoints import read_model
from fusionbench.errors import OutputError
from fusionbench.weights.partial import MARK
from fusionbench.weights.writer import CheckpointWriter


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
import signal, sys
# A job in the background is started with interruptions ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from fusionbench.weights.headers import TensorSpec
from fusionbench.weights.partial import MARK
from fusionbench.weights.writer import CheckpointWriter
with CheckpointWriter(Path(sys.argv[1]), [TensorSpec("a", "U8", (4,))], metadata={}) as writer:
    writer.write("a", b"1234")
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_writer_that_is_killed_leaves_no_model_and_does_not_stand_in_the_way(number, tmp_path):
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(number)
        process.wait()
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


def test_a_second_writer_of_a_folder_is_refused_and_the_first_one_finishes(tmp_path):
    with CheckpointWriter(tmp_path / "out", SPECS, metadata={}) as first:
        for name, content in CONTENT.items():
            first.write(name, content)
        assert "is being written by another process" in refused(tmp_path / "out")
    assert left(tmp_path) == ["out"]
    assert same(read_model(tmp_path / "out"), VALUES)


def test_a_writer_in_another_process_is_not_disturbed(tmp_path):
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "out")], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        assert "is being written by another process" in refused(tmp_path / "out")
        assert left(tmp_path) == ["out.partial"]
        process.kill()


def test_file_systems_without_locks_are_written_to(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write(tmp_path / "out")
    assert same(read_model(tmp_path / "out"), VALUES)


def test_leftovers_of_a_killed_writer_are_replaced(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / MARK).touch()
    (tmp_path / "out.partial" / "model.safetensors").write_text("half")
    write(tmp_path / "out")
    assert left(tmp_path) == ["out"]
