"""A folder in the making: it appears whole or not at all, and nothing that is not ours is removed for it."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fusionbench.errors import OutputError
from fusionbench.weights.partial import MARK, Partial, whole_folder, written_to
from fusionbench.weights.writer import CheckpointWriter


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as made:
        (made / "members").mkdir()
        (made / "members" / "a").write_text("whole")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out", "out/members", "out/members/a"]


def fail_midway(folder: Path, error: BaseException) -> None:
    with whole_folder(folder) as made:
        (made / "a").write_text("half")
        raise error


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_midway(tmp_path / "out", KeyboardInterrupt())
    assert names(tmp_path) == []


KILLED = """
import sys
from pathlib import Path
from fusionbench.weights.partial import whole_folder
with whole_folder(Path(sys.argv[1])) as made:
    (made / "a").write_text("half")
    print("written", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_leaves_no_folder_and_does_not_stand_in_the_way(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "out")], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        with pytest.raises(OutputError, match="being written by another process"), whole_folder(tmp_path / "out"):
            pass
        assert (tmp_path / "out.partial" / "a").is_file()
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    with whole_folder(tmp_path / "out") as made:
        (made / "b").write_text("whole")
    assert names(tmp_path) == ["out", "out/b"]


def test_a_partial_folder_of_somebody_else_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").write_text("kept")
    with (
        pytest.raises(OutputError, match=r"out\.partial is in the way.*did not make it"),
        whole_folder(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out.partial" / "thesis.tex").read_text() == "kept"
    (tmp_path / "two.partial").write_text("kept")
    with pytest.raises(OutputError, match=r"two\.partial is in the way"), whole_folder(tmp_path / "two"):
        pass
    assert (tmp_path / "two.partial").read_text() == "kept"


def test_an_empty_or_a_marked_one_is(tmp_path: Path) -> None:
    (tmp_path / "empty.partial").mkdir()
    (tmp_path / "ours.partial").mkdir()
    (tmp_path / "ours.partial" / MARK).touch()
    (tmp_path / "ours.partial" / "half").touch()
    for name in ("empty", "ours"):
        with whole_folder(tmp_path / name):
            pass
    assert names(tmp_path) == ["empty", "ours"]


def test_what_exists_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists"), whole_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out"]


def test_every_file_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync, rename = os.fsync, os.rename

    def recorded(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        assert {"config.json", "a"} <= {*synced}
        rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(os, "rename", renamed)
    with whole_folder(tmp_path / "out") as made:
        (made / "config.json").write_text("{}")
        (made / "members").mkdir()
        (made / "members" / "a").write_text("whole")
    assert (tmp_path / "out").is_dir()


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is full"):
        fail_midway(tmp_path / "out", OSError(errno.ENOSPC, "No space left on device"))
    assert names(tmp_path) == []


def test_an_interruption_just_after_the_folder_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def interrupted(folder: Path, *args: object, **options: bool) -> None:
        make(folder, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    for writer in (whole_folder(tmp_path / "out"), CheckpointWriter(tmp_path / "out", [], metadata={})):
        with pytest.raises(KeyboardInterrupt), writer:
            pass
        assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_just_after_it_is_begun_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    begin = Partial.begin

    def interrupted(partial: Partial, *args: object) -> None:
        begin(partial)
        raise error

    monkeypatch.setattr(Partial, "begin", interrupted)
    for writer in (whole_folder(tmp_path / "out"), CheckpointWriter(tmp_path / "out", [], metadata={})):
        with pytest.raises(error), writer:
            pass
        assert names(tmp_path) == []


def test_a_folder_that_another_writer_makes_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def overtaken(folder: Path, *args: object, **options: bool) -> None:
        make(folder, **options)
        (folder / "theirs").touch()
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(Path, "mkdir", overtaken)
    for writer in (whole_folder(tmp_path / "out"), CheckpointWriter(tmp_path / "two", [], metadata={})):
        with pytest.raises(OutputError, match="cannot be written"), writer:
            pass
    assert names(tmp_path) == ["out.partial", "out.partial/theirs", "two.partial", "two.partial/theirs"]


@pytest.mark.parametrize("place", ["a", "a/b", "a/b/c", "a/b/c/d", "a/b/x"])
def test_a_refusal_above_beside_or_in_a_folder_is_the_folder_s(tmp_path: Path, place: str) -> None:
    with pytest.raises(OutputError, match=r"a/b/c cannot be written: Read-only"), written_to(tmp_path / "a/b/c"):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / place))


def test_a_refusal_elsewhere_is_an_input_s(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Permission denied"), written_to(tmp_path / "a/b/c"):
        raise OSError(errno.EACCES, "Permission denied", str(tmp_path / "models"))


def test_what_stands_beside_finished_tensors_may_be_cut_off_and_is_made_anew(tmp_path: Path) -> None:
    killed = Partial(tmp_path / "out")
    killed.begin("the same")
    with (killed.path / MARK).open("a") as journal:
        journal.write('{"finished": ["a"]}\n')
    for name in ("model.safetensors", "README.md", "config.json"):
        (killed.path / name).write_text("cut of")
    killed.keep()
    again = Partial(tmp_path / "out")
    assert again.begin("the same") == {"a"}
    assert names(again.path) == [MARK, "model.safetensors"]
    again.discard()
