"""Give jobs to a launcher by its name."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from fusionbench.config.launcher import LauncherConfig
from fusionbench.errors import Interrupted
from fusionbench.launch.jobs import Answer, Job
from fusionbench.launch.processes import run_in_processes
from fusionbench.launch.ray import run_on_ray
from fusionbench.launch.slurm import run_by_slurm

Launch = Callable[[Sequence[Job], LauncherConfig, int], Generator[tuple[int, Answer], None, None]]
"""From jobs, how, and this machine's threads to numbers and answers, as they come."""
LAUNCHERS: dict[str, Launch] = {"processes": run_in_processes, "ray": run_on_ray, "slurm": run_by_slurm}


def launch(jobs: Sequence[Job], launcher: LauncherConfig, threads: int) -> Generator[tuple[int, Answer], None, None]:
    """Yield number and answer of each job as soon as it is done, whatever the order.

    Closed early (`contextlib.closing`), it stops what is still being done.

    Args:
        jobs: what to do, of one folder.
        launcher: where.
        threads: of this machine; how many jobs it does at once, where the launcher does not say.

    Raises:
        MissingExtra: where the launcher's package is not installed.
        ConfigError: where the cluster cannot be reached, or has no machine for a job.
        Interrupted: on Ctrl-C; all jobs are stopped.
    """
    if not jobs:
        return
    with interruptible(Path(jobs[0]["folder"])), closing(LAUNCHERS[launcher.name](jobs, launcher, threads)) as answers:
        yield from answers


@contextmanager
def interruptible(folder: object) -> Iterator[None]:
    """Say on Ctrl-C where what is finished is kept: in `folder`, whose text is told.

    Raises:
        Interrupted: in place of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"Stopped. What is finished is kept in {folder}; the same command goes on.") from None
