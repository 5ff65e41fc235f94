"""A run's folder: its lock holds against every later writer, and it is never made over its own inputs."""

import os
from pathlib import Path

import pytest
import torch

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, OutputError
from fusionbench.merge import Pool
from fusionbench.run.execution import check_apart
from fusionbench.run.folder import State, begin, locked, state_of
from fusionbench.weights.tensors import TensorSource


def test_a_refused_writer_does_not_let_the_next_one_in(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        for _ in range(3):
            with pytest.raises(OutputError, match="Another process"), locked(tmp_path / "run"):
                pass
    with locked(tmp_path / "run"):
        pass


def test_no_lock_and_no_folder_made_in_vain_stays_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with locked(tmp_path / "a" / "b" / "run"):
            assert (tmp_path / "a" / "b" / ".run.lock").is_file()
            raise ConfigError("a mistake")

    with pytest.raises(ConfigError):
        fail()
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "a" / "run"):
        (tmp_path / "a" / "run").mkdir()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run"]


def test_a_lock_that_was_removed_by_its_holder_holds_nobody_else_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second writer opens the file, then the first one ends and removes it: the second takes a new file."""
    lock, opened, real = tmp_path / ".run.lock", list[int](), os.open

    def open_and_lose(path: Path, flags: int, mode: int = 0o777) -> int:
        opened.append(real(path, flags, mode))
        if path == lock and len(opened) == 1:
            lock.unlink()
        return opened[-1]

    monkeypatch.setattr(os, "open", open_and_lose)
    with locked(tmp_path / "run"):
        assert len(opened) == 2
        with pytest.raises(OutputError, match="Another process"), locked(tmp_path / "run"):
            pass


def test_a_place_where_nobody_can_write_is_refused() -> None:
    with pytest.raises(OutputError, match="cannot be written"), locked(Path("/proc/nowhere/run")):
        pass


def test_a_folder_that_holds_an_input_is_refused(tmp_path: Path) -> None:
    source = TensorSource("mine", {"w": torch.zeros(1)})
    source.folder = tmp_path / "run" / "model"
    with pytest.raises(OutputError, match="mine lies in"):
        check_apart(tmp_path / "run", Pool(source, {}))
    check_apart(tmp_path / "other", Pool(source, {}))


def test_a_corruption_is_refused_not_ignored() -> None:
    asked = ["suite=mini/clip", "suite.size=tiny", "method=pretrained", "tasks.corruption=motion_blurr"]
    with pytest.raises(ConfigError, match=r"tasks\.corruption.*no corruption 'motion_blurr'. Did you mean motion_blur"):
        Recipe.load(None, asked)


def test_a_folder_whose_recipe_cannot_be_read_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    for force in (False, True):
        with pytest.raises(OutputError, match="was not made by fusionbench"):
            state_of(tmp_path / "run", "sha256:0", force=force)
    assert (tmp_path / "run" / "recipe.yaml").is_file()


def test_beginning_a_run_leaves_what_is_beside_its_own_files(tmp_path: Path) -> None:
    recipe = Recipe.load(None, ["experts.a=./a", "method=simple_average"])
    begin(tmp_path / "run", recipe, "sha256:1")
    (tmp_path / "run" / "model.partial").mkdir()
    (tmp_path / "run" / "model.partial" / "mine").write_text("kept")
    begin(tmp_path / "run", recipe, "sha256:1")
    assert (tmp_path / "run" / "model.partial" / "mine").read_text() == "kept"
    assert state_of(tmp_path / "run", "sha256:1", force=False) is State.unfinished
