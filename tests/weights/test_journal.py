"""A killed merge goes on where it was, and nothing else does."""

import os
import signal
from pathlib import Path

import pytest
import torch

from checkpoints import save_model
from fusionbench.config import Recipe
from fusionbench.errors import Interrupted, NotFinite, OutputError
from fusionbench.merge import merge
from fusionbench.weights import journal
from fusionbench.weights.journal import Journal, read_journal, start_journal
from fusionbench.weights.partial import MARK
from fusionbench.weights.writer import CheckpointWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
NAMES = [f"layer{i}.weight" for i in range(6)]


@pytest.fixture
def noted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SYNC_BYTES", 0)


@pytest.fixture
def models(tmp_path: Path, noted_at_once: None) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "a", "b"):
        tensors = {key: torch.randn(8, 8, generator=generator) for key in NAMES}
        save_model(tmp_path / name, tensors, {"model_type": "toy"})
    return tmp_path


def recipe(models: Path, *overrides: str) -> Recipe:
    experts = [f"experts.{name}={models / name}" for name in "ab"]
    return Recipe.load(
        None,
        [f"base={models / 'base'}", *experts, "method=ties", "runtime.threads=1", "output.shard_bytes=600", *overrides],
    )


def stop_after(count: int, stop) -> None:
    """Let the `count`-th write of this process be its last."""
    real, written = CheckpointWriter.write, []

    def write(self, name, content, start=0):
        real(self, name, content, start)
        written.append(name)
        if len(written) == count:
            stop()

    CheckpointWriter.write = write


def killed(models: Path, count: int, *overrides: str) -> None:
    """Merge in a process that is killed after some writes."""
    child = os.fork()
    if not child:
        stop_after(count, lambda: os.kill(os.getpid(), signal.SIGKILL))
        merge(recipe(models, *overrides), models / "out")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*.safetensors*")}


def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that are written from now on."""
    real, names = CheckpointWriter.write, []

    def write(self, name, content, start=0):
        names.append(name)
        real(self, name, content, start)

    monkeypatch.setattr(CheckpointWriter, "write", write)
    return names


@pytest.mark.parametrize("count", [1, 3, 6])
def test_the_same_command_redoes_only_what_is_missing_and_leaves_the_same_bytes(count, models, monkeypatch) -> None:
    merge(recipe(models), models / "whole")
    killed(models, count)
    assert not (models / "out").exists()
    names = written(monkeypatch)
    done: list[int] = []
    merge(recipe(models, "runtime.threads=2"), models / "out", lambda what, part, total: done.append(part))
    assert sorted(names) == NAMES[count:]
    assert (done[0], done[-1]) == (64 * count, 64 * 6)
    assert content(models / "out") == content(models / "whole")
    assert not (models / "out" / MARK).exists()
    assert not (models / "out.partial").exists()


def test_it_may_be_killed_again(models, monkeypatch) -> None:
    killed(models, 2)
    killed(models, 2)
    names = written(monkeypatch)
    merge(recipe(models), models / "out")
    assert sorted(names) == NAMES[4:]


def test_another_recipe_does_not_go_on_with_it_nor_remove_it(models) -> None:
    killed(models, 2)
    for changed in ("method.density=0.5", "output.shard_bytes=700", "output.dtype=bfloat16", "seed=1"):
        with pytest.raises(OutputError, match="2 finished tensors of a merge by another recipe"):
            merge(recipe(models, changed), models / "out")
    merge(recipe(models), models / "out")


def test_other_models_do_not_go_on_with_it(models) -> None:
    killed(models, 2)
    save_model(models / "a", {key: torch.zeros(8, 8) for key in NAMES}, {"model_type": "toy"})
    with pytest.raises(OutputError, match="of other models"):
        merge(recipe(models), models / "out")


def test_nothing_finished_is_nothing_to_keep(models, monkeypatch) -> None:
    monkeypatch.setattr(journal, "SYNC_BYTES", 1 << 30)
    killed(models, 3)
    names = written(monkeypatch)
    merge(recipe(models, "method.density=0.5"), models / "out")
    assert sorted(names) == NAMES


def test_an_interruption_keeps_what_is_finished_and_says_how_to_go_on(models, monkeypatch) -> None:
    monkeypatch.setattr(journal, "SYNC_BYTES", 1 << 30)
    real = CheckpointWriter.write

    def interrupt() -> None:
        raise KeyboardInterrupt

    stop_after(4, interrupt)
    try:
        with pytest.raises(Interrupted, match=r"4 of 6 tensors are kept in .*out\.partial: the same command goes on"):
            merge(recipe(models), models / "out")
    finally:
        CheckpointWriter.write = real
    names = written(monkeypatch)
    merge(recipe(models), models / "out")
    assert sorted(names) == NAMES[4:]


def test_an_error_keeps_nothing(models) -> None:
    save_model(models / "a", {key: torch.full((8, 8), float("nan")) for key in NAMES}, {"model_type": "toy"})
    with pytest.raises(NotFinite):
        merge(recipe(models, "method=task_arithmetic"), models / "out")
    assert not (models / "out.partial").exists()


def test_a_tensor_counts_when_all_its_bytes_are_written_and_on_disk(tmp_path, noted_at_once) -> None:
    start_journal(tmp_path / "j", "this")
    on_disk: list[str] = []
    kept = Journal(tmp_path / "j", {"a": 8, "b": 4, "none": 0}, (), on_disk.extend)
    kept.wrote("a", 4)
    assert read_journal(tmp_path / "j") == ("this", frozenset())
    kept.wrote("a", 4)
    kept.wrote("none", 0)
    assert read_journal(tmp_path / "j") == ("this", {"a", "none"})
    assert on_disk == ["a", "none"]


def test_finished_tensors_are_noted_as_time_goes_by(tmp_path, monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: clock[0])
    start_journal(tmp_path / "j", "this")
    kept = Journal(tmp_path / "j", dict.fromkeys("abc", 1), (), lambda names: None)
    kept.wrote("a", 1)
    clock[0] += journal.SYNC_SECONDS
    assert read_journal(tmp_path / "j")[1] == frozenset()
    kept.wrote("b", 1)
    assert read_journal(tmp_path / "j")[1] == {"a", "b"}
    kept.wrote("c", 1)
    assert read_journal(tmp_path / "j")[1] == {"a", "b"}
    kept.note()
    assert read_journal(tmp_path / "j")[1] == {"a", "b", "c"}


def test_a_line_that_was_cut_short_counts_as_not_written(tmp_path, noted_at_once) -> None:
    (tmp_path / "j").write_text('{"key": "this"}\n{"finished": ["a"]}\n{"finished": ["b", "c')
    assert read_journal(tmp_path / "j") == ("this", {"a"})
    Journal(tmp_path / "j", {"a": 1, "d": 1}, ["a"], lambda names: None).wrote("d", 1)
    assert read_journal(tmp_path / "j") == ("this", {"a", "d"})
    (tmp_path / "j").write_text("")
    assert read_journal(tmp_path / "j") == (None, frozenset())
