"""Processes that do jobs, with stand-ins for the worker: they die, work on, or do not listen."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fusionbench.config.launcher import LauncherConfig
from fusionbench.errors import FusionBenchError
from fusionbench.launch import processes, value_of
from fusionbench.launch.processes import run_in_processes

ANSWERING = """
import json, os, sys
for line in sys.stdin:
    job = json.loads(line)
    with open(job["log"], "a") as log:
        log.write(str(job["number"]))
    if job["number"] == job["dying"]:
        sys.exit("no memory is left")
    print(json.dumps({"value": [job["number"], os.environ["OMP_NUM_THREADS"]]}), flush=True)
"""
WORKING = """
import json, signal, sys
job = json.loads(sys.stdin.readline())
if job["number"] == 0:
    print(json.dumps({"value": None}), flush=True)
    sys.stdin.read()
else:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN if job["deaf"] else signal.default_int_handler)
        open(job["log"], "w").close()
        signal.pause()
    except KeyboardInterrupt:
        with open(job["log"], "w") as log:
            log.write("tidied up")
"""
Started = list[subprocess.Popen[bytes]]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Started]:
    """Let a script be the worker; the processes that are started are kept."""
    real, started = subprocess.Popen, Started()

    def stand_in(script: str) -> Started:
        def start(command: list[str], **options: Any) -> Any:
            started.append(real([sys.executable, "-c", script], **options))
            return started[-1]

        monkeypatch.setattr(processes.subprocess, "Popen", start)
        return started

    return stand_in


def jobs(log: Path, count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"number": number, "log": str(log), **more} for number in range(count)]


def test_a_job_whose_process_dies_is_tried_twice_and_no_other_is_lost(
    worker: Callable[[str], Started], tmp_path: Path
) -> None:
    worker(ANSWERING)
    how = LauncherConfig(name="processes", workers=2, cpus=3)
    answers = dict(run_in_processes(jobs(tmp_path / "log", 5, dying=2), how, threads=8))
    assert {number: value_of(answers[number]) for number in (0, 1, 3, 4)} == {n: [n, "3"] for n in (0, 1, 3, 4)}
    with pytest.raises(FusionBenchError, match=r"lost twice \(exit code 1: no memory is left\)"):
        value_of(answers[2])
    assert sorted((tmp_path / "log").read_text()) == ["0", "1", "2", "2", "3", "4"]


@pytest.mark.parametrize(("workers", "threads", "cpus", "expected"), [(None, 5, 2, 2), (3, 1, 1, 3), (9, 1, 1, 4)])
def test_so_many_processes_are_started_as_there_is_room_or_work_for(
    worker: Callable[[str], Started], tmp_path: Path, workers: int | None, threads: int, cpus: int, expected: int
) -> None:
    started = worker(ANSWERING)
    how = LauncherConfig(name="processes", workers=workers, cpus=cpus)
    assert len(dict(run_in_processes(jobs(tmp_path / "log", 4, dying=None), how, threads))) == 4
    assert len(started) == expected
    assert all(process.returncode == 0 for process in started)


@pytest.mark.parametrize("deaf", [False, True])
def test_processes_at_work_are_told_to_stop_and_those_that_do_not_listen_are_killed(
    worker: Callable[[str], Started], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    started, log = worker(WORKING), tmp_path / "log"
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.1 if deaf else 60.0)
    os.mkfifo(log)
    with closing(run_in_processes(jobs(log, 2, deaf=deaf), LauncherConfig(name="processes", workers=2), 1)) as answers:
        assert next(answers)[0] == 0
        # Opened at both ends: the other process is at work.
        log.open("rb").close()
        log.unlink()
    ended = {process.returncode for process in started}
    assert ended == {0, -signal.SIGKILL} if deaf else ended == {0}
    assert (log.read_text() if log.exists() else None) == (None if deaf else "tidied up")
