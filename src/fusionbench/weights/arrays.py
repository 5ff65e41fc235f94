"""Jobs of methods that have a kernel, on NumPy arrays, tile by tile. No torch here."""

import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from fusionbench.kernels import Block, Kernel, State, Visit
from fusionbench.kernels.tiles import BLOCK, TILE, WIDENED, Raw, fits, is_finite, narrow, row_width, widen
from fusionbench.registry import Entry, load_attribute
from fusionbench.weights.finite import bad_input, bad_result
from fusionbench.weights.headers import NUMPY, TensorSpec, as_buffer, entries
from fusionbench.weights.jobs import Job, Passes, Sink, aligned, batches, in_order, total_entries
from fusionbench.weights.plan import Input, Plan, Step

if TYPE_CHECKING:
    from fusionbench.kernels.compiled_tiles import Bits

SHARE = 32
"""A sample holds one in so many entries, or fewer."""


def kernel_for(plan: Plan, method: Entry, values: dict[str, Any], device: str) -> Kernel | None:
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


def check_models(plan: Plan, method: Entry) -> None:
    """Refuse numbers of models that a method has no meaning for, before anything is read.

    Raises:
        ConfigError: saying how many it takes.
    """
    if not method.kernel:
        return
    kernel: Kernel = load_attribute(method.kernel)
    for experts, based in {(len(step.experts), step.base is not None) for step in plan if step.action == "merge"}:
        kernel.check(experts, based)


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


class ArrayWorker:
    """Runs jobs on NumPy tiles.

    Attributes:
        widest: entries of the largest tile.
    """

    def __init__(self, plan: Plan, kernel: Kernel, *, whole: bool = False, tight: bool = False) -> None:
        """Take on a plan.

        Args:
            plan: what is merged.
            kernel: by what.
            whole: whether first passes rank each tensor by itself, and so see whole blocks.
            tight: let them see tiles all the same, of one long tensor at a time: the same cuts, in more passes.
        """
        self.plan = plan
        self.kernel = kernel
        self.scanned = BLOCK if whole and not tight else TILE
        self.batched = TILE if whole and tight else BLOCK
        self.prepared: Any = None
        merged = [step for step in plan if step.action == "merge"]
        self.widest = max((self._width(step, self.scanned) for step in merged), default=TILE)
        self.experts = max((len(step.experts) for step in plan), default=1)
        self.buffers = _Buffers(1 + self.experts, self.widest)

    def prepare(self, values: Mapping[str, Any], threads: int, passes: Passes, room: int | None) -> None:
        """Let the kernel look at the whole model first, as often as it needs; `room` is for a sample, in bytes."""
        if self.kernel.prepare is None:
            return
        at = {step.output.name: step.parameters for step in self.plan if step.action == "merge"}

        def scan(visit: Visit, *, among: Container[str] | None = None, most: int | None = None) -> Iterator[State]:
            # What is made of a sample takes no more than the sample.
            if most is not None and room is not None and room < 2 * most * 4 * self.experts:
                return
            # Neither a sample nor a look at some tensors is a pass over the inputs.
            passes.count += most is None and among is None
            share = 1 if most is None else max(SHARE, -(-total_entries(self.plan) // most))

            def work(jobs: Sequence[Job]) -> State:
                state: State = {}
                with np.errstate(over="ignore"):
                    for job in jobs:
                        name = job.step.output.name
                        if job.step.action == "merge" and (among is None or name in among):
                            for start, inputs in self._tiles(job, self.scanned, share):
                                visit(state, (name, start), inputs)
                return state

            unit = "lines" if self.kernel.rows else "element"
            yield from in_order(work, batches(self.plan, unit, self.batched), threads)

        self.prepared = self.kernel.prepare(scan, at, **values)

    def at_work(self) -> AbstractContextManager[None]:
        """Return the while in which jobs are done: nothing is to be set up."""
        return nullcontext()

    def merge(self, job: Job, sink: Sink) -> None:
        """Fuse one job's entries and write them."""
        output = job.step.output
        result: Raw = np.empty(job.stop - job.start, NUMPY[output.dtype])
        parameters = {**({"site": job.step.site} if self.kernel.sited else {}), **job.step.parameters}
        for start, stop in self._spans(job, TILE):
            out = self.buffers.out[: stop - start]
            place = (output.name, start)
            bits, direct = self._bits(job.step, start, stop), self.kernel.direct
            if bits is None or direct is None or not direct(out, bits, place, self.prepared, **parameters):
                base, inputs = self._tile(job.step, start, stop - start)
                self.kernel.apply(out, base, inputs, place, self.prepared, **parameters)
            self._write(out, output, result[start - job.start : stop - job.start])
        sink.write(output.name, as_buffer(result), job.start)

    def _tiles(self, job: Job, size: int, share: int = 1) -> Iterator[tuple[int, Any]]:
        """Yield first index and inputs of each tile, or of the first `1/share` of it where that is an entry.

        The arrays are overwritten by the next.
        """
        for start, stop in self._spans(job, size):
            count = (stop - start) // share
            if count or share == 1:
                yield start, self._tile(job.step, start, count)[1]

    def _spans(self, job: Job, size: int) -> Iterator[tuple[int, int]]:
        """Yield first index and end of each tile of a job."""
        width = self._width(job.step, size)
        for start in range(job.start, job.stop, width):
            yield start, min(job.stop, start + width)

    def _width(self, step: Step, size: int) -> int:
        """Return how many entries of a tensor are worked on at a time, about so many."""
        return aligned(step, size) if self.kernel.rows else size

    def _models(self, step: Step) -> Sequence[Input]:
        """Return whose numbers a kernel is given as its inputs."""
        return (step.base, *step.experts) if self.kernel.takes == "models" and step.base else step.experts

    def _tile(self, step: Step, start: int, count: int) -> tuple[Any, Any]:
        """Return base and inputs of `count` entries; the arrays are overwritten by the next."""
        models = self._models(step)
        inputs = self.buffers.rows(len(models), count)
        if self.kernel.takes != "deltas":
            self._read(models, start, inputs)
            return None, inputs
        base = self.buffers.base[:count]
        if step.base is not None:
            self._read([step.base], start, base[None])
        self._read_deltas(models, start, base, inputs)
        return base, inputs

    def _bits(self, step: Step, start: int, stop: int) -> "Bits | None":
        """Return where the files have the numbers of base and experts; None where the kernel cannot read them there."""
        based = self.kernel.takes == "deltas"
        if self.kernel.direct is None or (based and step.base is None):
            return None
        models = (*((step.base,) if based and step.base else ()), *self._models(step))
        if len({model.spec.dtype for model in models}) > 1:
            return None
        from fusionbench.kernels.compiled_tiles import bits_of

        return bits_of(self._raws(models, start, stop), models[0].spec.dtype)

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
