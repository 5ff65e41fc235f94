"""Run a plan: read, fuse and write block by block, in threads, in memory that does not grow with the model.

Methods with a kernel run on NumPy blocks and torch is never imported; others are given torch tensors (`tensors.py`).
The output does not depend on the number of threads, the order of the jobs or the layout of the files.
"""

import os
import threading
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from fusionbench.errors import ConfigError
from fusionbench.kernels import Block, Kernel, State, Visit
from fusionbench.kernels.tiles import BLOCK, TILE, WIDENED, Raw, fits, is_finite, narrow, row_width, widen
from fusionbench.registry import Entry, load_attribute
from fusionbench.weights.finite import bad_input, bad_result
from fusionbench.weights.headers import NUMPY, TensorSpec, as_buffer, entries
from fusionbench.weights.jobs import Job, aligned, batches, in_order
from fusionbench.weights.plan import Input, Plan, Step

Advance = Callable[[int], None]
SHARE = 32
"""A sample holds one in so many entries, or fewer."""


class Sink(Protocol):
    """Where results go: a checkpoint in the making, or memory."""

    def write(self, name: str, content: memoryview, start: int = 0) -> None:
        """Put the bytes of flat entries from `start` on into place."""
        ...


@dataclass(slots=True)
class Passes:
    """How often all inputs were read; the report says it."""

    count: int = 0


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
) -> int:
    """Write every output tensor of a plan; return how often the inputs were read.

    Args:
        plan: what each output is made of.
        method: the stream method's entry.
        sink: where results go.
        values: the method's parameters as the recipe gives them; `prepare` sees these.
        threads: jobs at a time; all cores by default.
        memory: bytes that blocks in flight may take; fewer threads run where that is needed.
        device: where torch functions run; kernels run on the CPU.
        advance: called with the number of entries that are done, for a progress bar.
        finished: outputs that the sink has already; first passes see them too, they are not made again.

    Raises:
        NotFinite: where an input or a result holds NaN or Inf; the caller discards the output.
        ConfigError: where `memory` is too small for one job.
    """
    kernel = _kernel(plan, method, dict(values), device)
    passes = Passes()
    if kernel is None:
        from fusionbench.weights.tensors import TorchWorker

        unit, held = method.unit, BLOCK if method.unit == "element" else max((s.held for s in plan), default=0)
        worker: Any = TorchWorker(plan, method, device)
    else:
        worker = _KernelWorker(plan, kernel, whole=kernel.whole(dict(values)))
        unit, held = "lines" if kernel.rows else "element", worker.widest
    threads = _threads(plan, held, threads or os.cpu_count() or 1, memory)
    worker.prepare(values, threads, passes)
    passes.count += 1

    def work(jobs: Sequence[Job]) -> None:
        # What overflows is found in the result, and refused in words.
        with np.errstate(over="ignore", invalid="ignore"):
            for job in jobs:
                _run(plan, job, sink, worker)
                advance(job.stop - job.start)

    missing = replace(plan, steps=tuple(step for step in plan if step.output.name not in finished))
    advance(total_entries(plan) - total_entries(missing))
    for _ in in_order(work, batches(missing, unit), threads):
        pass
    return passes.count


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


def _threads(plan: Plan, held: int, threads: int, memory: int | None) -> int:
    """Return how many jobs, each with `held` entries of every model, may run at a time within the budget.

    Raises:
        ConfigError: where not even one fits.
    """
    if memory is None:
        return threads
    rows = max((len(step.experts) + len(step.statistics) for step in plan), default=0) + 4
    job = rows * held * 4 + 2 * BLOCK * 4
    if memory < job:
        raise ConfigError(f"runtime.memory={memory:,} bytes is too small: this merge needs at least {job:,}.")
    return max(1, min(threads, memory // job))


def _kernel(plan: Plan, method: Entry, values: dict[str, Any], device: str) -> Kernel | None:
    """Return the method's kernel where it covers the parameters, the kinds of number and the device."""
    if not method.kernel or device not in ("cpu", "auto"):
        return None
    kinds = {i.spec.dtype for s in plan if s.action == "merge" for i in (*s.experts, *((s.base,) if s.base else ()))}
    kinds |= {step.output.dtype for step in plan if step.action == "merge"}
    if not kinds <= WIDENED:
        return None
    kernel: Kernel = load_attribute(method.kernel)
    lines = not kernel.rows or all(_in_lines(step) for step in plan if step.action == "merge")
    return kernel if lines and kernel.serves(values) else None


def _in_lines(step: Step) -> bool:
    """Tell whether a tensor's rows are one an output, and short enough to be at hand as a whole."""
    shape = step.output.shape
    return (step.site.inputs_last or len(shape) != 2) and row_width(shape) <= BLOCK


class _Buffers(threading.local):
    """One thread's tiles, made once and used for every job."""

    def __init__(self, rows: int, tile: int) -> None:
        self._inputs = np.empty(rows * tile, np.float32)
        self.base = np.empty(tile, np.float32)
        self.out = np.empty(tile, np.float32)
        self.scratch = np.empty(tile, np.uint32)

    def rows(self, count: int, width: int) -> Block:
        """Return room for `(count, width)` entries without gaps: over such the compiled loops run on whole vectors."""
        return self._inputs[: count * width].reshape(count, width)


class _KernelWorker:
    """Runs jobs on NumPy tiles.

    Attributes:
        widest: entries of the largest tile.
    """

    def __init__(self, plan: Plan, kernel: Kernel, *, whole: bool) -> None:
        self.plan = plan
        self.kernel = kernel
        self.scanned = BLOCK if whole else TILE
        self.prepared: Any = None
        merged = [step for step in plan if step.action == "merge"]
        self.widest = max((self._tile(step, self.scanned) for step in merged), default=TILE)
        self.buffers = _Buffers(1 + max((len(step.experts) for step in plan), default=1), self.widest)

    def prepare(self, values: Mapping[str, Any], threads: int, passes: Passes) -> None:
        """Let the kernel look at the whole model first, as often as it needs."""
        if self.kernel.prepare is None:
            return
        at = {step.output.name: step.parameters for step in self.plan if step.action == "merge"}

        def scan(visit: Visit, *, among: Container[str] | None = None, most: int | None = None) -> Iterator[State]:
            # Neither a sample nor a look at some tensors is a pass over the inputs.
            passes.count += most is None and among is None
            share = 1 if most is None else max(SHARE, -(-total_entries(self.plan) // most))

            def work(jobs: Sequence[Job]) -> State:
                state: State = {}
                with np.errstate(over="ignore"):
                    for job in jobs:
                        name = job.step.output.name
                        if job.step.action == "merge" and (among is None or name in among):
                            for start, _, inputs in self._tiles(job, self.scanned, share):
                                visit(state, (name, start), inputs)
                return state

            yield from in_order(work, batches(self.plan, "lines" if self.kernel.rows else "element"), threads)

        self.prepared = self.kernel.prepare(scan, at, **values)

    def merge(self, job: Job, sink: Sink) -> None:
        """Fuse one job's entries and write them."""
        output = job.step.output
        result: Raw = np.empty(job.stop - job.start, NUMPY[output.dtype])
        for start, base, inputs in self._tiles(job, TILE):
            count = inputs.shape[1]
            out = self.buffers.out[:count]
            place = (output.name, start)
            sited = {"site": job.step.site} if self.kernel.sited else {}
            self.kernel.apply(out, base, inputs, place, self.prepared, **sited, **job.step.parameters)
            self._write(out, output, result[start - job.start : start - job.start + count])
        sink.write(output.name, as_buffer(result), job.start)

    def _tiles(self, job: Job, size: int, share: int = 1) -> Iterator[tuple[int, Any, Any]]:
        """Yield first index, base and inputs of each tile, or of the first `1/share` of it where that is an entry.

        The arrays are overwritten by the next.
        """
        step = job.step
        deltas = self.kernel.takes == "deltas"
        models = (step.base, *step.experts) if self.kernel.takes == "models" and step.base else step.experts
        tile = self._tile(step, size)
        for start in range(job.start, job.stop, tile):
            count = (min(job.stop, start + tile) - start) // share
            if count == 0 and share > 1:
                continue
            inputs = self.buffers.rows(len(models), count)
            base = self.buffers.base[:count] if deltas else None
            if base is not None and step.base is not None:
                self._read([step.base], start, base[None])
            if base is None:
                self._read(models, start, inputs)
            else:
                self._read_deltas(models, start, base, inputs)
            yield start, base, inputs

    def _tile(self, step: Step, size: int) -> int:
        """Return how many entries of a tensor are worked on at a time, about so many."""
        return aligned(step, size) if self.kernel.rows else size

    def _raws(self, models: Sequence[Input], start: int, stop: int) -> list[Raw]:
        return [entries(self.plan.sources[model.source], model.spec, start, stop) for model in models]

    def _read(self, models: Sequence[Input], start: int, out: Block) -> None:
        """Fill the rows of `out` with the models' numbers."""
        raws = self._raws(models, start, start + out.shape[1])
        if self.kernel.compiled and len({model.spec.dtype for model in models}) == 1:
            from fusionbench.kernels.compiled_tiles import read_values

            if read_values(raws, models[0].spec.dtype, out):
                return
        for model, raw, row in zip(models, raws, out, strict=True):
            widen(raw, model.spec.dtype, row)
            if not is_finite(row):
                first = int(np.flatnonzero(~np.isfinite(row))[0])
                raise bad_input(self.plan.sources[model.source].label, model.spec, start + first, row[first])

    def _read_deltas(self, models: Sequence[Input], start: int, base: Block, out: Block) -> None:
        """Fill the rows of `out` with the models' numbers less those of the base."""
        if self.kernel.compiled and len({model.spec.dtype for model in models}) == 1:
            from fusionbench.kernels.compiled_tiles import read_deltas

            if read_deltas(self._raws(models, start, start + len(base)), models[0].spec.dtype, base, out):
                return
        self._read(models, start, out)
        np.subtract(out, base, out=out)

    def _write(self, values: Block, output: TensorSpec, result: Raw) -> None:
        """Fill `result` with `values` as the output's kind of number."""
        if self.kernel.compiled and output.dtype == "BF16":
            from fusionbench.kernels.compiled_tiles import write_bf16

            if write_bf16(values, result):
                return
        if not fits(values, output.dtype):
            raise bad_result(output, finite=is_finite(values))
        narrow(values, output.dtype, result, self.buffers.scratch[: len(values)])


def total_entries(plan: Plan) -> int:
    """Return the entries of all outputs, for a progress bar."""
    return sum(step.output.size for step in plan)
