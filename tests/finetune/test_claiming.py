"""A training's folder is known by its note, to the last moment; what a killed call left of it goes."""

import json
from pathlib import Path

import pytest

from fusionbench.errors import ConfigError, OutputError
from fusionbench.finetune.claiming import JOB, claim, finished, release
from fusionbench.weights.companions import RECORD

ASKED = {"base": "fp:0", "recipe": {"steps": 2}}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of a finished training."""
    folder = tmp_path / "cats"
    folder.mkdir()
    (folder / RECORD).write_text(json.dumps({**ASKED, "scores": {"cats": 1.0}}))
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder in which it was trained, as a killed call left it."""
    folder = tmp_path / "cats.training"
    claim(folder, ASKED)
    (folder / "cats").mkdir()
    (folder / "cats" / "checkpoint.pt").write_text("")
    return folder


def test_what_a_finished_training_left_is_removed_by_the_same_call(out: Path, work: Path) -> None:
    assert finished(out, work, ASKED)["scores"] == {"cats": 1.0}
    assert not work.exists()


def test_an_empty_folder_is_the_end_of_a_removal_that_was_killed(out: Path, work: Path) -> None:
    release(work)
    work.mkdir()
    finished(out, work, ASKED)
    assert not work.exists()


@pytest.mark.parametrize("note", [None, {"base": "fp:1"}])
def test_a_folder_that_is_somebody_else_s_stays(out: Path, work: Path, note: object) -> None:
    (work / JOB).unlink() if note is None else (work / JOB).write_text(json.dumps(note))
    finished(out, work, ASKED)
    assert (work / "cats" / "checkpoint.pt").is_file()


def test_another_training_is_neither_taken_for_this_one_nor_gone_on_with(out: Path, work: Path) -> None:
    other = {**ASKED, "recipe": {"steps": 3}}
    with pytest.raises(OutputError, match="nothing is written over"):
        finished(out, work, other)
    with pytest.raises(ConfigError, match="another recipe"):
        claim(work, other)
    claim(work, ASKED)
    assert (work / "cats").is_dir()
