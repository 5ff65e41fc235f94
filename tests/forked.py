"""A piece of work in several processes at once, forked from the test so that nothing is imported again."""

import itertools
import os
import pickle
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import nn

from fusionbench.training import Loop, Steps, joined, step_of

LONGEST_SECONDS = 100
_ASKED = itertools.count()


class FailedThere(AssertionError):
    """What another process raised, with its traceback; `kind` is the name of the error's class."""

    def __init__(self, kind: str, said: str) -> None:
        super().__init__(kind, said)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])


def in_processes(count: int, work: Callable[[], Any]) -> list[Any]:
    """Return what `work` returns in each of `count` processes, in the order of their numbers.

    Each finds the others as if torchrun had started it. An error there is returned as a `FailedThere`, and None of a
    process that was killed.
    """
    _warm()
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count)}
    children = []
    for rank in range(count):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _work_there(work, {**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)}, writing)
        os.close(writing)
        children.append((pid, reading))
    found = []
    for pid, reading in children:
        with os.fdopen(reading, "rb") as answers:
            said = answers.read()
        os.waitpid(pid, 0)
        found.append(pickle.loads(said) if said else None)
    return found


def _free_port() -> int:
    """Return a port that nobody has, below those that the system gives away by itself, so that nobody else takes it.

    Each process that runs tests begins to look elsewhere.
    """
    for number in range(10_000):
        port = 20_000 + (os.getpid() * 97 + next(_ASKED) + number) % 10_000
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


@cache
def _warm() -> None:
    """Import, once for all processes, what a training imports when it runs."""
    weight = torch.zeros(1, requires_grad=True)

    def nothing(start: int) -> Iterator[torch.Tensor]:
        while True:
            yield torch.ones(1)

    loss = step_of(lambda batch: (weight * batch).sum())
    Loop().run("warm", Steps(1), loss, nothing, {"w": weight}, torch.optim.Adam([weight]))


def _work_there(work: Callable[[], Any], meeting: dict[str, str], writing: int) -> None:
    try:
        signal.alarm(LONGEST_SECONDS)
        os.environ.update(meeting)
        torch.set_num_threads(1)
        joined.cache_clear()
        answer = work()
    except BaseException as error:
        answer = FailedThere(type(error).__name__, str(error) or traceback.format_exc())
    with os.fdopen(writing, "wb") as answers:
        answers.write(pickle.dumps(answer))
    os._exit(0)


def in_double() -> None:
    """Let this process, which is not to do anything else, compute in float64 what the code computes in float32."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    nn.Module.float = nn.Module.double  # type: ignore[method-assign]
    torch.float32 = torch.float64  # type: ignore[misc]
