"""The process that does jobs: it ends when there are no more, and tidies up when nobody waits for its answer."""

import json
import os
import subprocess
import sys
from pathlib import Path

from fusionbench.launch.worker import STOPPED

WAITING = """
import signal, sys, types
from fusionbench.launch import jobs, worker

def wait(job):
    try:
        open(job["log"], "w").close()
        signal.pause()
    finally:
        with open(job["log"], "w") as log:
            log.write("tidied up")

sys.modules["waiting"] = types.SimpleNamespace(wait=wait)
jobs.KINDS["wait"] = "waiting:wait"
sys.exit(worker.main())
"""


def started(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def give(worker: subprocess.Popen[bytes], **job: object) -> None:
    assert worker.stdin is not None
    worker.stdin.write(json.dumps({"here": os.getcwd(), **job}).encode() + b"\n")
    worker.stdin.flush()


def test_it_answers_line_by_line_and_ends_well_when_there_are_no_more_jobs() -> None:
    with started("-m", "fusionbench.launch.worker") as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        for kind in ("one", "two"):
            give(worker, kind=kind)
            answer = json.loads(worker.stdout.readline())
            assert answer["error"] == "ConfigError"
            assert repr(kind) in answer["message"]
        worker.stdin.close()
        assert worker.wait() == 0
        assert worker.stdout.read() == b""


def test_it_stops_and_tidies_up_when_whoever_started_it_is_gone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    os.mkfifo(log)
    with started("-c", WAITING) as worker:
        assert worker.stdin is not None
        give(worker, kind="wait", log=str(log))
        # Opened at both ends: the job is being done.
        log.open("rb").close()
        log.unlink()
        worker.stdin.close()
        assert worker.wait() == STOPPED
    assert log.read_text() == "tidied up"
