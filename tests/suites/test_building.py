import errno
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from fusionbench.errors import Interrupted, OutputError
from fusionbench.suites.building import build_once, stage


class Died(Exception):
    """Stands for a process that ends at once."""


def test_a_folder_is_made_once_and_has_its_name_when_it_is_whole(tmp_path):
    seen = []

    def make(working: Path) -> None:
        seen.append((tmp_path / "suite").exists())
        (working / "file").write_text("whole")

    build_once(tmp_path / "suite", make)
    build_once(tmp_path / "suite", make)
    assert seen == [False]
    assert (tmp_path / "suite/file").read_text() == "whole"


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path):
    made = []

    def make(working: Path, last: BaseException | None) -> None:
        stage(working / "first", lambda folder: made.append("first"))
        stage(working / "second", lambda folder: made.append("second") or fail(last))

    def fail(error: BaseException | None) -> None:
        if error:
            raise error

    with pytest.raises(Died):
        build_once(tmp_path / "suite", lambda working: make(working, Died()))
    with pytest.raises(Interrupted, match=r"suite.partial.*goes on"):
        build_once(tmp_path / "suite", lambda working: make(working, KeyboardInterrupt()))
    assert not (tmp_path / "suite").exists()
    build_once(tmp_path / "suite", lambda working: make(working, None))
    assert made == ["first", "second", "second", "second"]
    assert sorted(path.name for path in (tmp_path / "suite").iterdir()) == ["first", "second"]


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path):
    def fill(working: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"The disk of .*suite is full"):
        build_once(tmp_path / "suite", fill)


def test_a_part_that_was_begun_is_made_anew(tmp_path):
    (tmp_path / "part.partial").mkdir()
    (tmp_path / "part.partial/rest").write_text("of a killed process")
    stage(tmp_path / "part", lambda folder: (folder / "new").touch())
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["new"]


def test_a_second_process_waits_and_then_finds_the_folder(tmp_path, caplog):
    made = []
    with FileLock(tmp_path / "suite.lock"):
        waiting = threading.Thread(target=build_once, args=(tmp_path / "suite", made.append))
        waiting.start()
        while "suite is being built by another process" not in caplog.text:
            waiting.join(0.01)
        (tmp_path / "suite").mkdir()
    waiting.join()
    assert made == []
