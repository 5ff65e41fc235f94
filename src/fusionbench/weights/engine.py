"""Run a plan: read, fuse and write block by block, in threads, in memory that does not grow with the model.

Methods with a kernel run on NumPy arrays (`arrays.py`) and torch is never imported; others are given torch tensors
(`tensors.py`).
The output does not depend on the number of threads, the order of the jobs or the layout of the files.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fusionbench.errors import ConfigError
from fusionbench.kernels import Block
from fusionbench.kernels.tiles import BLOCK, WIDENED, Raw, fits, narrow, widen
from fusionbench.registry import Entry
from fusionbench.weights.arrays import ArrayWorker, check_models, kernel_for
from fusionbench.weights.bounded import bounded
from fusionbench.weights.finite import bad_result
from fusionbench.weights.headers import NUMPY, as_buffer, entries
from fusionbench.weights.jobs import Job, Passes, Sink, batches, in_order, total_entries
from fusionbench.weights.plan import Plan
from fusionbench.weights.workspace import bytes_at_work

Advance = Callable[[int], None]
IN_FLIGHT = 4
"""States of first passes that are held at a time, by thread: one that grows, two that wait, one that is added to."""
COPYING = 2 * BLOCK * 4
"""Bytes that copying or casting a block of a tensor takes."""


class Prepared(NamedTuple):
    """What first passes over all inputs found, and how many there were."""

    found: Any
    passes: int


class Crew(NamedTuple):
    """Who works on a plan: threads at a time, the bytes that each takes, and those that are left for a sample."""

    worker: Any
    unit: str
    threads: int
    job: int
    room: int | None


def run_plan(
    plan: Plan,
    method: Entry,
    sink: Sink,
    *,
    values: Mapping[str, Any],
    threads: int | None = None,
    memory: int | None = None,
    device: str = "cpu",
    advance: Advance = lambda _: None,
    finished: Collection[str] = (),
    prepared: Prepared | None = None,
) -> int:
    """Write every output tensor of a plan; return how often the inputs were read.

    Args:
        plan: what each output is made of.
        method: the stream method's entry.
        sink: where results go.
        values: the method's parameters as the recipe gives them; `prepare` sees these.
        threads: jobs at a time; all cores by default.
        memory: bytes that blocks in flight may take; fewer threads run where that is needed, and memory of mapped files
            is given back as soon as it is used.
        device: where torch functions run; kernels run on the CPU.
        advance: called with the number of entries that are done, for a progress bar.
        finished: outputs that the sink has already; first passes see them too, they are not made again.
        prepared: what `prepare_plan` found of the same plan, which is then not looked for again.

    Raises:
        NotFinite: where an input or a result holds NaN or Inf; the caller discards the output.
        ConfigError: where `memory` is too small for one job.
    """
    plan = bounded(plan, memory)
    crew = crew_of(plan, method, values, threads, memory, device)
    found = _prepare(crew, values) if prepared is None else prepared
    worker = crew.worker
    worker.prepared = found.found

    def work(jobs: Sequence[Job]) -> None:
        # What overflows is found in the result, and refused in words.
        with np.errstate(over="ignore", invalid="ignore"):
            for job in jobs:
                _run(plan, job, sink, worker)
                advance(job.stop - job.start)

    missing = replace(plan, steps=tuple(step for step in plan if step.output.name not in finished))
    advance(total_entries(plan) - total_entries(missing))
    with worker.at_work():
        for _ in in_order(work, batches(missing, crew.unit), crew.threads):
            pass
    return found.passes + 1


def prepare_plan(
    plan: Plan, method: Entry, *, values: Mapping[str, Any], threads: int, memory: int | None, device: str
) -> Prepared:
    """Return what the first passes over all inputs of a plan find; see `run_plan`, which does the rest."""
    return _prepare(crew_of(bounded(plan, memory), method, values, threads, memory, device), values)


def _prepare(crew: Crew, values: Mapping[str, Any]) -> Prepared:
    passes = Passes()
    crew.worker.prepare(values, crew.threads, passes, crew.room)
    return Prepared(crew.worker.prepared, passes.count)


def crew_of(
    plan: Plan, method: Entry, values: Mapping[str, Any], threads: int | None, memory: int | None, device: str
) -> Crew:
    """Return who works on a plan within a budget.

    Raises:
        ConfigError: where `memory` is too small for one job.
    """
    check_models(plan, method)
    kernel = kernel_for(plan, method, dict(values), device)
    experts = max((len(step.experts) + len(step.statistics) for step in plan), default=0)

    def bytes_of(held: int) -> int:
        return (experts + 4) * held * 4 + COPYING + (IN_FLIGHT * kernel.state(experts) if kernel else 0)

    if kernel is None:
        from fusionbench.weights.tensors import TorchWorker

        unit, job = method.unit, bytes_at_work(plan, method, values) + COPYING
        worker: Any = TorchWorker(plan, method, device)
    else:
        whole = kernel.whole(dict(values))
        worker = ArrayWorker(plan, kernel, whole=whole)
        if memory is not None and memory < bytes_of(worker.widest):
            worker = ArrayWorker(plan, kernel, whole=whole, tight=True)
        unit, job = "lines" if kernel.rows else "element", bytes_of(worker.widest)
    at_once = _threads(job, threads or os.cpu_count() or 1, memory)
    return Crew(worker, unit, at_once, job, None if memory is None else memory - at_once * job)


def _run(plan: Plan, job: Job, sink: Sink, worker: Any) -> None:
    if job.step.action == "merge":
        worker.merge(job, sink)
    elif job.step.action == "batch_norm":
        from fusionbench.weights.statistics import merge_batch_norm

        sink.write(job.step.output.name, merge_batch_norm(plan, job.step))
    else:
        sink.write(job.step.output.name, copied(plan, job), job.start)


def copied(plan: Plan, job: Job) -> memoryview:
    """Return the bytes of the base's entries, cast where the output is of another kind."""
    source = job.step.base
    assert source is not None
    output = job.step.output
    if source.spec.dtype == output.dtype:
        return plan.sources[source.source].read(source.spec.name, job.start, job.stop)
    raw = entries(plan.sources[source.source], source.spec, job.start, job.stop)
    if not {source.spec.dtype, output.dtype} <= WIDENED:
        from fusionbench.weights.tensors import cast

        return cast(raw, source.spec.dtype, output)
    values: Block = np.empty(len(raw), np.float32)
    widen(raw, source.spec.dtype, values)
    # What was infinite before may stay so.
    if not fits(values, output.dtype) and not fits(values[np.isfinite(values)], output.dtype):
        raise bad_result(output, finite=True)
    result: Raw = np.empty(len(raw), NUMPY[output.dtype])
    narrow(values, output.dtype, result, np.empty(len(raw), np.uint32))
    return as_buffer(result)


def _threads(job: int, threads: int, memory: int | None) -> int:
    """Return how many jobs, each of so many bytes, may run at a time within the budget.

    Raises:
        ConfigError: where not even one fits.
    """
    if memory is None:
        return threads
    if memory < job:
        raise ConfigError(f"runtime.memory={memory:,} bytes is too small: this merge needs at least {job:,}.")
    return max(1, min(threads, memory // job))
