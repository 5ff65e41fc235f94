"""Jobs of Slurm through a stand-in for submitit, which answers as a cluster would; elsewhere the real one is tried."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusionbench.config.launcher import LauncherConfig
from fusionbench.errors import ConfigError, FusionBenchError, OutputError
from fusionbench.launch import launch, new_job, value_of

HOW = LauncherConfig(name="slurm", address="local", workers=2, cpus=3, gpus=0.5)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A cluster that does with a job what its `submit` does; it keeps what it was asked for."""
    made = SimpleNamespace(submit=None, asked={})

    class AutoExecutor:
        def __init__(self, folder: Path, cluster: str) -> None:
            self.folder = folder
            made.asked |= {"folder": folder, "cluster": cluster}

        def update_parameters(self, **named: Any) -> None:
            made.asked |= named

        def submit(self, function: Any, job: Any) -> Any:
            return made.submit(function, job)

    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=AutoExecutor))
    return made


def submitted(result: Callable[[], Any]) -> Any:
    """A job that is done, with this result."""
    return SimpleNamespace(done=lambda: True, result=result, cancel=lambda: None)


def failing(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def jobs(folder: Path, count: int = 1) -> list[Any]:
    return [new_job("unknown", folder, {"number": number}) for number in range(count)]


def test_what_slurm_is_asked_for_is_what_the_launcher_says(cluster: SimpleNamespace, tmp_path: Path) -> None:
    cluster.submit = lambda _, job: submitted(lambda: {"value": job["number"]})
    answers = dict(launch(jobs(tmp_path, 3), HOW, threads=1))
    assert {number: value_of(answer) for number, answer in answers.items()} == {0: 0, 1: 1, 2: 2}
    assert cluster.asked["folder"] == tmp_path.resolve() / ".slurm"
    # Half a processor for graphics cannot be had of Slurm.
    assert (cluster.asked["cpus_per_task"], cluster.asked["gpus_per_node"]) == (3, 1)
    assert (cluster.asked["cluster"], cluster.asked["timeout_min"]) == ("local", 24 * 60)


def test_a_job_that_is_lost_is_submitted_once_more_and_says_how_the_second_time(
    cluster: SimpleNamespace, tmp_path: Path
) -> None:
    submissions: list[int] = []

    def submit(_: Any, job: Any) -> Any:
        submissions.append(job["number"])
        first = submissions.count(job["number"]) == 1
        if job["number"] == 0 and not first:
            return submitted(lambda: {"value": "found"})
        return submitted(failing(RuntimeError("a trace\nout of memory" if job["number"] == 0 else "")))

    cluster.submit = submit
    answers = dict(launch(jobs(tmp_path, 2), HOW, threads=1))
    assert value_of(answers[0]) == "found"
    # An error without a word is no other error.
    with pytest.raises(FusionBenchError, match=r"lost twice \(RuntimeError: without a word\)"):
        value_of(answers[1])
    assert sorted(submissions) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            RuntimeError("Command failed\nsbatch: error: invalid account"),
            ConfigError,
            "invalid account.*SBATCH_ACCOUNT",
        ),
        (PermissionError(13, "Permission denied"), OutputError, r"\.slurm cannot be written: Permission denied"),
    ],
)
def test_a_job_that_is_not_taken_is_one_clear_error_and_those_before_are_cancelled(
    cluster: SimpleNamespace, tmp_path: Path, error: Exception, kind: type[Exception], said: str
) -> None:
    cancelled: list[int] = []

    def submit(_: Any, job: Any) -> Any:
        if job["number"]:
            raise error
        return SimpleNamespace(done=lambda: False, cancel=lambda: cancelled.append(0))

    cluster.submit = submit
    with pytest.raises(kind, match=said):
        list(launch(jobs(tmp_path, 2), HOW, threads=1))
    assert cancelled == [0]


def test_an_address_that_slurm_does_not_have_is_told(cluster: SimpleNamespace, tmp_path: Path) -> None:
    elsewhere = LauncherConfig(name="slurm", address="10.0.0.1")
    with pytest.raises(ConfigError, match=r"for slurm it is local, or left out"):
        list(launch(jobs(tmp_path), elsewhere, threads=1))
