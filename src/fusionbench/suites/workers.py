"""Fine-tunings side by side, each on one thread: the same bits however many run at once.

Workers are processes of their own, started by `python -m fusionbench.suites.workers FILE`, so that a user's script
needs no guard against being imported again. Each takes the next model that nobody has taken.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fusionbench.config import Config
from fusionbench.errors import FusionBenchError
from fusionbench.finetune.recipe import FinetuneRecipe, Tuning
from fusionbench.suites.model import Suite
from fusionbench.suites.registration import Progress
from fusionbench.training import read_curve

MISTAKE = 2
"""Exit code of a worker that ends with an error the user can mend."""
POLL_SECONDS = 0.25
CHECKPOINT_EVERY = 100


class Job(Config):
    """One model to be made: its tasks, several for multi-task learning, and how."""

    name: str
    tasks: tuple[str, ...]
    recipe: FinetuneRecipe
    tuning: Tuning = "full"


class Work(Config):
    """What workers read: the suite whose base is tuned, where experts go, and the jobs, the longest first."""

    suite: Suite
    out: Path
    jobs: tuple[Job, ...]

    @property
    def steps(self) -> int:
        """Steps of all jobs together."""
        return sum(job.recipe.steps for job in self.jobs)


def run_here(work: Work, progress: Progress | None = None) -> None:
    """Do the jobs that nobody has taken, one after another, on one thread; then wait for those that others have."""
    with one_thread():
        for wait in (False, True):
            for number, job in enumerate(work.jobs, start=1):
                _do(work, job, wait)
                if progress and not wait:
                    progress("experts", sum(done.recipe.steps for done in work.jobs[:number]), work.steps)


def _do(work: Work, job: Job, wait: bool) -> None:
    """Make one model, unless another process has it in its hands; `wait` for that process to finish or to die."""
    from fusionbench.suites.tuning import finetune_suite

    work.out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work.out / f"{job.name}.lock")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        return
    with lock:
        if wait and (work.out / job.name).exists():
            return
        finetune_suite(
            work.suite,
            work.out,
            job.recipe,
            tasks=job.tasks,
            mtl=len(job.tasks) > 1,
            tuning=job.tuning,
            checkpoint_every=CHECKPOINT_EVERY,
        )


def run_beside(work: Work, processes: int, progress: Progress | None = None) -> None:
    """Do the jobs in several processes of one thread each, and wait for all.

    Raises:
        FusionBenchError: what the user must mend, as the worker said it.
        RuntimeError: where a worker died otherwise, with the end of what it wrote.
    """
    work.out.mkdir(parents=True, exist_ok=True)
    description = work.out / "work.json"
    description.write_text(work.model_dump_json())
    command = [sys.executable, "-m", __name__, str(description)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # In sessions of their own, so that Ctrl-C comes here alone and what it says comes from here.
    workers = [
        subprocess.Popen(
            command,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        for _ in range(processes)
    ]
    try:
        while None in [worker.poll() for worker in workers]:
            _raise_for(workers)
            if progress:
                progress("experts", _steps_done(work), work.steps)
            time.sleep(POLL_SECONDS)
        _raise_for(workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            if worker.stderr:
                worker.stderr.close()
    description.unlink()


def _raise_for(workers: Sequence[subprocess.Popen[str]]) -> None:
    for worker in workers:
        if worker.returncode:
            said = worker.stderr.read().strip() if worker.stderr else ""
            if worker.returncode == MISTAKE:
                raise FusionBenchError(said)
            raise RuntimeError(f"A worker ended with code {worker.returncode}: {said[-2000:]}")


def _steps_done(work: Work) -> int:
    return sum(_steps_of(work, job) for job in work.jobs)


def _steps_of(work: Work, job: Job) -> int:
    if (work.out / job.name).exists():
        return job.recipe.steps
    points = read_curve(work.out / f"{job.name}.training" / job.name)
    return points[-1].step if points else 0


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread for a while: sums are then always taken in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main(arguments: Sequence[str]) -> int:
    """Run as a worker; return the exit code."""
    document: Any = json.loads(Path(arguments[0]).read_text())
    try:
        run_here(Work.read(document, "The work"))
    except FusionBenchError as error:
        sys.stderr.write(str(error))
        return MISTAKE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
