"""Jobs as tasks of a Ray cluster. Ray is imported when it is asked for."""

from collections.abc import Generator, Sequence
from typing import Any

from fusionbench.config.launcher import LauncherConfig
from fusionbench.errors import ConfigError, MissingExtra
from fusionbench.launch.jobs import Answer, Job, died, perform, words_of

AHEAD = 2
"""Tasks handed to Ray for each that can run at once: its workers never wait for this process."""


def run_on_ray(
    jobs: Sequence[Job], launcher: LauncherConfig, threads: int
) -> Generator[tuple[int, Answer], None, None]:
    """Yield number and answer of each job as it is done; Ray tries one whose worker or machine is lost once more.

    Args:
        jobs: what to run.
        launcher: `address` of the cluster (without one, a cluster of this machine is started for the while); `cpus` and
            `gpus` of each run; `workers`: most runs at once.
        threads: of this machine; what a cluster that is started here has.

    Raises:
        MissingExtra: where Ray is not installed.
        ConfigError: where the cluster cannot be reached, or has no machine for a run.
    """
    try:
        import ray  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise MissingExtra("launcher=ray", "'fusionbench[ray]'") from None
    own = not ray.is_initialized()
    if own:
        _connect(ray, launcher, threads)
    going: dict[Any, int] = {}
    try:
        most = _most(ray, launcher)
        task = ray.remote(num_cpus=launcher.cpus, num_gpus=launcher.gpus, max_retries=1)(perform)
        upcoming = iter(range(len(jobs)))
        while True:
            for number in upcoming:
                going[task.remote(jobs[number])] = number
                if len(going) >= most:
                    break
            if not going:
                return
            for reference in ray.wait(list(going), num_returns=1)[0]:
                yield going.pop(reference), _answer(ray, reference)
    finally:
        for reference in going:
            # Interrupts the run, which tidies up; the next command goes on with it.
            ray.cancel(reference, force=False)
        if own:
            ray.shutdown()


def _connect(ray: Any, launcher: LauncherConfig, threads: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    if launcher.address is None:
        processors = (launcher.workers or max(1, threads // launcher.cpus)) * launcher.cpus
        ray.init(address="local", num_cpus=processors, include_dashboard=False, **quiet)
        return
    try:
        ray.init(address=launcher.address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"runtime.launcher.address={launcher.address}: no Ray cluster answers there ({error}). Start one with: "
            "ray start --head"
        ) from None


def _most(ray: Any, launcher: LauncherConfig) -> int:
    """Return how many runs are handed over at a time; a run that fits no machine would wait for ever."""
    for machine in ray.nodes():
        has = machine["Resources"]
        if machine["Alive"] and has.get("CPU", 0) >= launcher.cpus and has.get("GPU", 0) >= launcher.gpus:
            break
    else:
        raise ConfigError(
            f"runtime.launcher: no machine of the cluster has cpus={launcher.cpus} and gpus={launcher.gpus:g}."
        )
    return launcher.workers or max(1, AHEAD * int(ray.cluster_resources()["CPU"]) // launcher.cpus)


def _answer(ray: Any, reference: Any) -> Answer:
    try:
        answer: Answer = ray.get(reference)
    except ray.exceptions.RayError as error:
        return died(f"{type(error).__name__}: {words_of(error, last=False)}")
    return answer
