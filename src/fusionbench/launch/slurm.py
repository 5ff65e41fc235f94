"""Jobs of Slurm, through submitit, which is imported when it is asked for."""

import math
import time
from collections import Counter, deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from fusionbench.config.launcher import LauncherConfig
from fusionbench.errors import ConfigError, MissingExtra, OutputError
from fusionbench.launch.jobs import Answer, Job, died, perform, words_of

JOB_FILES = ".slurm"
POLL_SECONDS = {"local": 0.2, "slurm": 5.0}
AT_ONCE = 16
ATTEMPTS = 2
MOST_MINUTES = 24 * 60
"""submitit's own limit is five minutes; Slurm's variable SBATCH_TIMELIMIT wins over both."""


def run_by_slurm(
    jobs: Sequence[Job], launcher: LauncherConfig, threads: int
) -> Generator[tuple[int, Answer], None, None]:
    """Yield number and answer of each job as it is done; one that Slurm loses is submitted once more.

    Args:
        jobs: what to run.
        launcher: `cpus` and `gpus` of each run; `workers`: jobs at once; `address="local"` runs the job files on this
            machine. Job files and logs are in `.slurm` in the folder of the runs, which all machines share.
        threads: of this machine; with `address="local"` as many runs at once.

    Raises:
        MissingExtra: where submitit is not installed.
        ConfigError: where there is no Slurm, or it does not take a job.
        OutputError: where the job files cannot be written.
    """
    executor = _executor(launcher, Path(jobs[0]["folder"]))
    local = launcher.address is not None
    most = launcher.workers or (max(1, threads // launcher.cpus) if local else AT_ONCE)
    waiting, attempts, going = deque(range(len(jobs))), Counter[int](), dict[int, Any]()
    try:
        while waiting or going:
            while waiting and len(going) < most:
                number = waiting.popleft()
                going[number] = _submitted(executor, jobs[number])
            finished = [number for number, job in going.items() if job.done()]
            if not finished:
                time.sleep(POLL_SECONDS[launcher.address or "slurm"])
            for number in finished:
                answer = _answer(going.pop(number))
                attempts[number] += 1
                if "lost" not in answer:
                    yield number, answer
                elif attempts[number] < ATTEMPTS:
                    waiting.appendleft(number)
                else:
                    yield number, died(answer["lost"])
    finally:
        for job in going.values():
            job.cancel()


def _executor(launcher: LauncherConfig, parent: Path) -> Any:
    try:
        import submitit  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise MissingExtra("launcher=slurm", "'fusionbench[slurm]'") from None
    if launcher.address not in (None, "local"):
        raise ConfigError(f"runtime.launcher.address={launcher.address}: for slurm it is local, or left out.")
    try:
        executor = submitit.AutoExecutor(folder=parent / JOB_FILES, cluster=launcher.address or "slurm")
    except RuntimeError as error:
        raise ConfigError(f"launcher=slurm: {error}. Is sbatch on the path?") from None
    executor.update_parameters(
        name="fusionbench",
        timeout_min=MOST_MINUTES,
        cpus_per_task=launcher.cpus,
        gpus_per_node=math.ceil(launcher.gpus),
    )
    return executor


def _submitted(executor: Any, job: Job) -> Any:
    try:
        return executor.submit(perform, job)
    except OSError as error:
        raise OutputError(f"{executor.folder} cannot be written: {error.strerror}. Choose another --out.") from None
    except Exception as error:  # submitit passes on what sbatch says as errors of its own
        raise ConfigError(
            f"launcher=slurm: the job was not taken ({words_of(error)}). Account, partition and limits are Slurm's "
            "environment variables, such as SBATCH_ACCOUNT and SBATCH_PARTITION."
        ) from None


def _answer(job: Any) -> Answer:
    """Return a finished job's answer, or why it gave none."""
    try:
        answer: Answer = job.result()
    except Exception as error:  # submitit passes on whatever the job ended with
        return {"lost": f"{type(error).__name__}: {words_of(error)}"}
    return answer
