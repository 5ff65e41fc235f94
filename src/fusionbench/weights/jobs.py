"""The pieces that a plan is worked off in, threads that take them in order, and where results go. No torch here."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

from fusionbench.kernels.tiles import BLOCK, row_width
from fusionbench.weights.plan import Plan, Step

T = TypeVar("T")


class Job(NamedTuple):
    """Entries `start` to `stop` of one step."""

    step: Step
    start: int
    stop: int


class Sink(Protocol):
    """Where results go: a checkpoint in the making, or memory."""

    def write(self, name: str, content: memoryview, start: int = 0) -> None:
        """Put the bytes of flat entries from `start` on into place."""
        ...


@dataclass(slots=True)
class Passes:
    """How often all inputs were read; the report says it."""

    count: int = 0


def batches(plan: Plan, unit: str, most: int | None = None) -> Iterator[list[Job]]:
    """Yield lists of jobs of about `most` entries each, or a block's: small tensors cost no more than their bytes."""
    enough = BLOCK if most is None else most
    batch: list[Job] = []
    filled = 0
    for job in _jobs(plan, unit):
        batch.append(job)
        filled += job.stop - job.start
        if filled >= enough or len(batch) >= 256:
            yield batch
            batch, filled = [], 0
    if batch:
        yield batch


def _jobs(plan: Plan, unit: str) -> Iterator[Job]:
    for step in plan:
        size = step.output.size
        chunks = step.action == "copy" or (step.action == "merge" and unit in ("element", "lines"))
        length = max(size, 1) if not chunks else aligned(step, BLOCK) if unit == "lines" else BLOCK
        for start in range(0, max(size, 1), length):
            yield Job(step, start, min(size, start + length))


def aligned(step: Step, entries: int) -> int:
    """Return the next lower multiple of a row's entries, at least one row."""
    width = max(row_width(step.output.shape), 1)
    return max(entries // width, 1) * width


def in_order(work: Callable[[T], Any], items: Iterable[T], threads: int) -> Iterator[Any]:
    """Yield `work(item)` in the items' order, with at most twice `threads` of them begun ahead."""
    if threads == 1:
        yield from map(work, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="merge") as pool:
        waiting: list[Future[Any]] = [pool.submit(work, item) for item in islice(remaining, 2 * threads)]
        try:
            while waiting:
                result = waiting.pop(0).result()
                waiting += [pool.submit(work, item) for item in islice(remaining, 1)]
                yield result
        finally:
            for future in waiting:
                future.cancel()


def total_entries(plan: Plan) -> int:
    """Return the entries of all outputs, for a progress bar."""
    return sum(step.output.size for step in plan)
