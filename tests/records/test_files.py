"""Files that appear whole or not at all."""

from pathlib import Path

import pytest

from fusionbench.errors import OutputError
from fusionbench.records import write_whole


def test_the_folder_is_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a" / "b.txt", "läuft\n")
    assert path.read_bytes() == "läuft\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_path_below_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file/b\.txt cannot be written"):
        write_whole(tmp_path / "file" / "b.txt", "x")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_whole(tmp_path / "b.txt", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=rf"The disk of {path} is full\. Free some space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
