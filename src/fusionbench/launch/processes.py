"""Jobs in processes of this machine, one thread each unless more are asked for."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO

from fusionbench.config.launcher import LauncherConfig
from fusionbench.launch.jobs import Answer, Job, died

GRACE_SECONDS = 10.0
"""How long a process that is told to stop may take to tidy up."""
ATTEMPTS = 2
MOST_OF_A_LOG = 500


def run_in_processes(
    jobs: Sequence[Job], launcher: LauncherConfig, threads: int
) -> Generator[tuple[int, Answer], None, None]:
    """Yield number and answer of each job as it is done; one whose process dies is tried once more.

    Processes are `python -m fusionbench.launch.worker`, so that a user's script needs no guard against being imported
    again. They get jobs one by one, and stop by themselves when this process is gone.

    Args:
        jobs: what to run.
        launcher: `workers` and `cpus` count.
        threads: of this machine, by which the number of workers is chosen where it is not given.
    """
    wanted = min(launcher.workers or max(1, threads // launcher.cpus), len(jobs))
    waiting, attempts = deque(range(len(jobs))), Counter[int]()
    with tempfile.TemporaryDirectory(prefix="fusionbench-") as logs, selectors.DefaultSelector() as selector:
        workers: list[_Worker] = []
        try:
            while waiting or any(worker.job is not None for worker in workers):
                while waiting and len(workers) < wanted:
                    workers.append(_Worker(launcher.cpus, Path(logs) / f"{sum(attempts.values())}-{len(workers)}"))
                    selector.register(workers[-1].answers, selectors.EVENT_READ, workers[-1])
                for worker in workers:
                    if waiting and worker.job is None:
                        worker.give(number := waiting.popleft(), jobs[number])
                for key, _ in selector.select():
                    worker = key.data
                    answer, number = worker.hear(), worker.job
                    if worker.alive:
                        if answer is not None:
                            worker.job = None
                            yield number, answer
                        continue
                    selector.unregister(worker.answers)
                    workers.remove(worker)
                    if number is None:
                        continue
                    attempts[number] += 1
                    if attempts[number] < ATTEMPTS:
                        waiting.appendleft(number)
                    else:
                        yield number, died(worker.last_words())
        finally:
            _stop(workers)


class _Worker:
    """A process that does one job after another.

    Attributes:
        job: number of what it has in its hands.
        alive: False when it was heard for the last time.
        answers: where it is heard.
    """

    def __init__(self, cpus: int, log: Path) -> None:
        self.job: int | None = None
        self.alive = True
        self._log, self._heard = log, b""
        count = str(cpus)
        with log.open("wb") as errors:
            # In a session of its own, so that Ctrl-C comes to this process alone and what it says comes from here.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fusionbench.launch.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count},
                bufsize=0,
                start_new_session=True,
            )
        self._orders = _pipe(self._process.stdin)
        self.answers = _pipe(self._process.stdout)

    def give(self, number: int, job: Job) -> None:
        """Hand it a job; where it is dead already, that is heard next."""
        self.job = number
        line = memoryview(json.dumps(job).encode() + b"\n")
        with contextlib.suppress(BrokenPipeError):
            while line:
                line = line[self._orders.write(line) :]

    def hear(self) -> Answer | None:
        """Return the answer when it is whole; find out whether the process has ended."""
        part = os.read(self.answers.fileno(), 65536)
        self._heard += part
        if not part:
            self.alive = False
            self._process.wait()
            self._orders.close()
            self.answers.close()
        elif self._heard.endswith(b"\n"):
            answer: Answer = json.loads(self._heard)
            self._heard = b""
            return answer
        return None

    def last_words(self) -> str:
        """Return how it ended, and the end of what it wrote."""
        code = self._process.returncode
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        said = self._log.read_text(errors="replace").strip()[-MOST_OF_A_LOG:]
        return f"{how}: {said}" if said else how

    def stop(self) -> None:
        """Let it end: at once where it is idle, after tidying up where it works."""
        self._orders.close()
        if self.job is not None:
            self._process.send_signal(signal.SIGINT)

    def bury(self) -> None:
        """Wait until it has ended; kill it when that takes too long."""
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.answers.close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise RuntimeError("a process without pipes")
    return stream


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.bury()
