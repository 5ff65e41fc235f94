"""A launcher that does its jobs in this process, last first, each as it would arrive at another process."""

import json
from collections.abc import Iterator, Sequence

import pytest

from fusionbench.config.launcher import LauncherConfig
from fusionbench.launch import Answer, Job
from fusionbench.launch.jobs import perform
from fusionbench.launch.launching import LAUNCHERS


def jobs_here(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """Put it in the place of `processes`; return the list that takes how many jobs it gets each time.

    Args:
        monkeypatch: of the test.
        stop_after: Ctrl-C comes when so many jobs are done.
    """
    given: list[int] = []
    done = 0

    def here(jobs: Sequence[Job], launcher: LauncherConfig, threads: int) -> Iterator[tuple[int, Answer]]:
        nonlocal done
        given.append(len(jobs))
        for number in reversed(range(len(jobs))):
            if done == stop_after:
                raise KeyboardInterrupt
            yield number, json.loads(json.dumps(perform(json.loads(json.dumps(jobs[number])))))
            done += 1

    monkeypatch.setitem(LAUNCHERS, "processes", here)
    return given
