"""What a merge would cost, before it is run: from headers, and a rehearsal on made-up tensors of the same shapes."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError
from fusionbench.kernels.tiles import BLOCK
from fusionbench.merge import Pool, open_pool, plan_of_recipe
from fusionbench.registry import Entry, methods
from fusionbench.weights.cold_reading import available_memory, cold_speed
from fusionbench.weights.engine import crew_of, run_plan
from fusionbench.weights.headers import ITEM_BYTES, TensorSpec, as_buffer
from fusionbench.weights.jobs import total_entries
from fusionbench.weights.plan import Input, Plan, Step

LONG_ENOUGH = 0.5
"""Seconds from which on a rehearsal is believed."""
ENTRIES = 1 << 20
"""Entries of the first rehearsal; each further one takes four times as many."""
LARGEST = 1 << 26
"""Entries from which on no larger rehearsal is made."""
SHIFT = 997
"""Entries between the places from which two made-up sources begin to read the same numbers."""
LINE, STRIDE = 1024, 104_729
"""How far the place moves on, an odd number, with so many entries of a tensor."""
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dri/renderD128")
"""Where Linux has accelerators; elsewhere only the recipe's device and the processor are rehearsed on."""
FLUSH_SECONDS = 5.0
"""After which Linux begins to put on disk what was written (`vm.dirty_writeback_centisecs`)."""
START_SECONDS = 0.4
"""Start of the process and of its imports without torch, measured on the development machine."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a merge is expected to take on one device of this machine.

    Attributes:
        passes: over the inputs.
        seconds: with the inputs in the page cache where memory can hold them, else from the disk in every pass.
        memory: bytes beside mapped files, at the peak.
        rehearsed: share of the merge that was tried out to know.
    """

    passes: int
    seconds: float
    memory: int
    rehearsed: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a merge is expected to take.

    Attributes:
        tensors: of the output.
        parameters: of the output.
        read: bytes of all inputs, which each pass reads once.
        fetched: bytes of the inputs that are on the hub alone, and are downloaded first.
        written: bytes.
        free: bytes free where the output goes.
        reading: seconds that a pass takes longer where the inputs come from the disk; None where that is not known.
        held: whether memory can hold the inputs, so that only a first pass may have to read them from the disk.
        devices: the cost by device, that of the recipe first.
    """

    tensors: int
    parameters: int
    read: int
    fetched: int
    written: int
    free: int
    reading: float | None
    held: bool
    devices: Mapping[str, Cost]


def forecast(recipe: Recipe, out: Path, pool: Pool | None = None) -> Forecast:
    """Return what a merge would take; nothing is left behind.

    The method runs, for about two seconds, on made-up tensors with the shapes and kinds of the plan's, from memory to a
    file beside `out`; its time is scaled by the number of entries. How fast the disk is, is measured on parts of the
    inputs. Of models that are on the hub alone only headers are fetched.

    Args:
        recipe: of a method that merges tensor by tensor.
        out: where the output would go.
        pool: the recipe's models where they are opened already.

    Raises:
        FusionBenchError: where the recipe cannot be run; see `fusionbench.merge.plan_of_recipe`.
    """
    pool = pool or open_pool(recipe, headers=True)
    if methods[recipe.method.name].kind != "stream":
        raise ConfigError(f"{recipe.method.name} does not merge tensor by tensor, so its cost is not known beforehand.")
    plan = plan_of_recipe(recipe, pool, glimpse=True)
    place, runtime = _existing(out), recipe.runtime
    read = sum(spec.nbytes for source in plan.sources for spec in source.specs.values())
    speed, memory = cold_speed(plan.sources, runtime.threads), available_memory()
    reading, held = None if speed is None else read / speed, memory is None or read <= memory
    return Forecast(
        tensors=len(plan.steps),
        parameters=total_entries(plan),
        read=read,
        fetched=sum(getattr(source, "file_bytes", 0) for source in {id(s): s for s in plan.sources}.values()),
        written=sum(step.output.nbytes for step in plan),
        free=shutil.disk_usage(place).free,
        reading=reading,
        held=held,
        devices={name: _cost(plan, recipe, name, place, 0 if held else reading) for name in _devices(runtime.device)},
    )


def _devices(asked: str) -> list[str]:
    """Return the devices that are rehearsed on: the recipe's, then the processor and an accelerator if there is one."""
    first = "cpu" if asked == "auto" else asked
    found = [first, "cpu"]
    # Asking torch takes seconds, and where no driver has made a device there is none.
    if any(Path(driver).exists() for driver in DRIVERS):
        import torch

        accelerator = torch.accelerator.current_accelerator(check_available=True)
        found += [accelerator.type] if accelerator and not first.startswith(accelerator.type) else []
    return [*dict.fromkeys(found)]


def _cost(plan: Plan, recipe: Recipe, device: str, place: Path, each_pass: float | None) -> Cost:
    entry, entries = methods[recipe.method.name], total_entries(plan)
    runtime = recipe.runtime
    crew = crew_of(plan, entry, recipe.method.params, runtime.threads, runtime.memory, device)
    found = _rehearse(plan, entry, recipe, device, place)
    share = found.entries / entries if entries else 1.0
    working, syncing = (seconds / max(share, 1e-12) for seconds in (found.working, found.syncing))
    working += found.passes * (each_pass or 0)
    return Cost(
        passes=found.passes,
        # What the system writes by itself meanwhile needs no waiting for at the end.
        seconds=START_SECONDS + working + max(0.0, syncing - max(0.0, working - FLUSH_SECONDS)),
        memory=max(found.memory, crew.threads * crew.job),
        rehearsed=share,
    )


class _Rehearsal(NamedTuple):
    """How many entries were merged, what that took, and what putting them on disk took."""

    entries: int
    working: float
    syncing: float
    passes: int
    memory: int


def _existing(out: Path) -> Path:
    """Return the nearest folder above `out` that is there."""
    place = out.resolve().parent
    while not place.is_dir():
        place = place.parent
    return place


def _rehearse(plan: Plan, entry: Entry, recipe: Recipe, device: str, place: Path) -> _Rehearsal:
    """Return the largest rehearsal that was needed."""
    values, runtime, total = recipe.method.params, recipe.runtime, total_entries(plan)
    wanted, warm = ENTRIES, False
    while True:
        part = _part(plan, wanted)
        with tempfile.TemporaryFile(dir=place if os.access(place, os.W_OK) else None) as file:
            sink = _FileSink(part, file.fileno())
            started = perf_counter()
            passes = run_plan(part, entry, sink, values=values, threads=runtime.threads, memory=runtime.memory,
                              device=device)  # fmt: skip
            worked = perf_counter()
            os.fsync(file.fileno())
            found = _Rehearsal(total_entries(part), worked - started, perf_counter() - worked, passes, sink.peak)
        enough = found.working >= LONG_ENOUGH or found.entries >= min(total, LARGEST)
        if warm and enough:
            return found
        # The first time loads kernels, which later merges find compiled.
        warm = True
        if not enough:
            wanted *= 4


def _part(plan: Plan, wanted: int) -> Plan:
    """Return a plan of made-up tensors: steps evenly taken from the plan until they hold about `wanted` entries."""
    total = total_entries(plan)
    stride = max(1, min(total // max(wanted, 1), len(plan.steps)))
    chosen: list[Step] = []
    held = 0
    for step in plan.steps[stride // 2 :: stride]:
        if held >= wanted and chosen:
            break
        chosen.append(_cut(step, wanted))
        held += chosen[-1].output.size
    specs: list[dict[str, TensorSpec]] = [{} for _ in plan.sources]
    for step in chosen:
        for place in (*((step.base,) if step.base else ()), *step.experts, *step.statistics):
            specs[place.source][place.spec.name] = place.spec
    return Plan(tuple(_MadeUp(index, held) for index, held in enumerate(specs)), tuple(chosen), ())


def _cut(step: Step, wanted: int) -> Step:
    """Return a step with fewer rows where its tensor alone is larger than the rehearsal; matrices keep their shape."""
    shape = step.output.shape
    if step.output.size <= wanted or step.site.role in ("matrix", "conv") or not shape:
        return step
    rows = max(1, wanted // max(1, step.output.size // shape[0]))
    cut = (rows, *shape[1:])

    def smaller(place: Input) -> Input:
        return place._replace(spec=place.spec._replace(shape=cut))

    return step._replace(
        output=step.output._replace(shape=cut),
        site=replace(step.site, shape=cut),
        base=smaller(step.base) if step.base else None,
        experts=tuple(smaller(place) for place in step.experts),
        statistics=tuple(smaller(place) for place in step.statistics),
    )


class _MadeUp:
    """A source whose tensors hold made-up numbers, the same few megabytes again and again."""

    config: Mapping[str, Any] = MappingProxyType({})
    folder = None

    def __init__(self, index: int, specs: Mapping[str, TensorSpec]) -> None:
        self.label = f"made-up model {index}"
        self.specs = specs
        self._index = index

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return as many bytes as a real tensor would give."""
        spec = self.specs[name]
        count = (spec.size if stop is None else stop) - start
        numbers = _numbers().get(spec.dtype)
        if numbers is None:
            return memoryview(bytes(count * ITEM_BYTES[spec.dtype]))
        # Each source begins at another place, so that no delta is zero, and each tile, so that tiles are not alike.
        first = (self._index * SHIFT + start // LINE * STRIDE) % BLOCK
        found = numbers[first : first + BLOCK]
        return as_buffer(found[:count] if count <= BLOCK else np.resize(found, count))

    def fingerprint(self) -> str:
        """Return a name: what is made up has no content to digest."""
        return f"fp:{self.label}"


@cache
def _numbers() -> dict[str, np.ndarray[Any, Any]]:
    values = np.random.default_rng(0).normal(scale=0.02, size=2 * BLOCK).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    return {"F32": values, "BF16": bits, "F16": values.astype(np.float16)}


class _FileSink:
    """Writes each tensor to its place in a file, as a checkpoint's writer does."""

    def __init__(self, plan: Plan, descriptor: int) -> None:
        self._descriptor = descriptor
        self._place: dict[str, tuple[int, int]] = {}
        self.peak = 0
        offset = 0
        for step in plan:
            self._place[step.output.name] = (offset, ITEM_BYTES[step.output.dtype])
            offset += step.output.nbytes

    def write(self, name: str, content: memoryview, start: int = 0) -> None:
        offset, item = self._place[name]
        os.pwrite(self._descriptor, content, offset + start * item)
        self.peak = max(self.peak, _anonymous())


def _anonymous() -> int:
    """Return the bytes of memory that this process holds beside mapped files."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
