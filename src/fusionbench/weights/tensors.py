"""Sources seen through torch, models in memory seen as sources, and the worker that runs torch functions on a plan."""

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fusionbench.registry import Entry
from fusionbench.weights.devices import device_named
from fusionbench.weights.finite import bad_input, bad_result
from fusionbench.weights.headers import Source, TensorSpec, as_buffer
from fusionbench.weights.jobs import Job, Passes, Sink, batches
from fusionbench.weights.plan import Input, Plan, Site

TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
SAFETENSORS = {kind: word for word, kind in TORCH.items()}
Weights = Mapping[str, Tensor]


def as_tensor(content: memoryview | np.ndarray[Any, Any], dtype: str, shape: Sequence[int]) -> Tensor:
    """Return bytes as a tensor of `dtype` (safetensors' word) and `shape`, on memory of its own."""
    return _shaped(np.array(np.frombuffer(content, np.uint8), copy=True), dtype, shape)


def _shaped(raw: np.ndarray[Any, Any], dtype: str, shape: Sequence[int]) -> Tensor:
    """Return the tensor that sees `raw` as its memory."""
    if not raw.size:
        return torch.empty(tuple(shape), dtype=TORCH[dtype])
    return torch.from_numpy(raw).view(TORCH[dtype]).view(tuple(shape))


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor in row-major order."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    return as_buffer(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")


def cast(raw: np.ndarray[Any, Any], source: str, output: TensorSpec) -> memoryview:
    """Return entries of one kind as the bytes of another, rounded once.

    Raises:
        NotFinite: where the output's kind cannot hold a number.
    """
    wide = as_tensor(raw.view(np.uint8), source, (len(raw),))
    result = wide.to(TORCH[output.dtype])
    if bool((wide.to(torch.float64).isfinite() & ~result.to(torch.float64).isfinite()).any()):
        raise bad_result(output, finite=True)
    return as_bytes(result)


def is_finite(tensor: Tensor) -> bool:
    """Tell whether no entry is NaN or Inf, by the least and the largest: a tenth of `isfinite`'s time."""
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def finite(tensor: Tensor, label: str, spec: TensorSpec, start: int = 0) -> Tensor:
    """Return what was read of a model's tensor, from the flat entry `start` on.

    Raises:
        NotFinite: naming the first entry that is NaN or Inf.
    """
    if not is_finite(tensor):
        first = int(torch.nonzero(~torch.isfinite(tensor).flatten())[0])
        raise bad_input(label, spec, start + first, tensor.flatten()[first].item())
    return tensor


class LazyWeights(Mapping[str, Tensor]):
    """A source as a mapping of names to tensors; each is read when it is asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, name: str) -> Tensor:
        spec = self.source.specs[name]
        return as_tensor(self.source.read(name), spec.dtype, spec.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.source.specs)

    def __len__(self) -> int:
        return len(self.source.specs)


class TensorSource:
    """Tensors in memory as a source, a state dict or a live module; tied tensors stand once, under their first name."""

    def __init__(self, label: str, tensors: Weights | nn.Module, config: Mapping[str, Any] | None = None) -> None:
        if isinstance(tensors, nn.Module):
            config = config or getattr(getattr(tensors, "config", None), "to_dict", dict)()
            tensors = tensors.state_dict(keep_vars=False)
        self.label = label
        self.config: Mapping[str, Any] = config or {}
        self.folder: Path | None = None
        self._tensors = _without_aliases(tensors)
        self.specs: Mapping[str, TensorSpec] = {
            name: TensorSpec(name, SAFETENSORS[tensor.dtype], tuple(tensor.shape))
            for name, tensor in self._tensors.items()
        }
        self._content: dict[str, memoryview] = {}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of flat entries `start` to `stop` of a tensor."""
        content = self._content.get(name)
        if content is None:
            content = self._content[name] = as_bytes(self._tensors[name])
        item = self._tensors[name].element_size()
        return content[start * item : None if stop is None else stop * item]

    def fingerprint(self) -> str:
        """Return `sha256:` over every name, kind, shape and byte."""
        hasher = hashlib.sha256()
        for name, spec in self.specs.items():
            hasher.update(repr(spec).encode())
            hasher.update(self.read(name))
        return f"sha256:{hasher.hexdigest()}"


def _without_aliases(tensors: Weights) -> dict[str, Tensor]:
    seen: set[tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype]] = set()
    kept = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() == 0 or place not in seen:
            kept[name] = tensor
        seen.add(place)
    return kept


class MemorySink:
    """Keeps results as tensors instead of writing them."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._raw = {spec.name: np.empty(spec.nbytes, np.uint8) for spec in specs}

    def write(self, name: str, content: memoryview, start: int = 0) -> None:
        """Put the bytes of flat entries from `start` on into place."""
        spec = self._specs[name]
        first = start * (spec.nbytes // max(spec.size, 1))
        self._raw[name][first : first + len(content)] = np.frombuffer(content, np.uint8)

    @property
    def weights(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {name: _shaped(raw, self._specs[name].dtype, self._specs[name].shape) for name, raw in self._raw.items()}


class Chunk(NamedTuple):
    """What a method is given for one tensor or block, upcast."""

    site: Site
    base: Tensor | None
    experts: list[Tensor]


class TorchWorker:
    """Runs jobs by the method's torch function; blocks are moved to the device here and nowhere else."""

    def __init__(self, plan: Plan, method: Entry, device: str) -> None:
        self.plan = plan
        self.unit = method.unit
        self.function = method.load()
        self.device = torch.device("cpu") if device == "auto" else device_named(device)
        self.accepted = frozenset(inspect.signature(self.function).parameters)
        self.prepared: Any = None
        self.uses_base = method.base != "unused"

    def prepare(self, values: Mapping[str, Any], threads: int, passes: Passes, room: int | None) -> None:  # noqa: ARG002
        """Let the method read the whole model first, as often as it needs."""
        prepare = getattr(self.function, "prepare", None)
        if prepare is None:
            return

        def read() -> Iterator[Chunk]:
            passes.count += 1
            for jobs in batches(self.plan, self.unit):
                yield from (self._chunk(job) for job in jobs if job.step.action == "merge")

        def statistics() -> Iterator[tuple[Site, list[Tensor]]]:
            for jobs in batches(self.plan, self.unit):
                for job in jobs:
                    if found := self._statistics(job):
                        yield job.step.site, found

        at = {step.output.name: step.parameters for step in self.plan if step.action == "merge"}
        wanted = inspect.signature(prepare).parameters
        given = {**values, "statistics": statistics}
        self.prepared = prepare(read, at, **{name: value for name, value in given.items() if name in wanted})

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let each job have one of torch's threads: jobs run side by side, and threads of threads wait for each other.

        So the output is that of one thread on every machine.
        """
        before = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def merge(self, job: Job, sink: Sink) -> None:
        """Fuse one job's entries and write them."""
        chunk = self._chunk(job)
        given = {**job.step.parameters, "site": chunk.site, "prepared": self.prepared}
        if "stats" in self.accepted:
            given["stats"] = self._statistics(job)
        output = job.step.output
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)
        with torch.no_grad():
            result = self.function(
                *((chunk.base,) if self.uses_base else ()),
                chunk.experts,
                **{name: value for name, value in given.items() if name in self.accepted},
            )
        written = result.to(TORCH[output.dtype])
        if not is_finite(written.to(result.dtype)):
            raise bad_result(output, finite=is_finite(result))
        sink.write(output.name, as_bytes(written), job.start)

    def _chunk(self, job: Job) -> Chunk:
        step = job.step
        site = step.site
        if job.start:
            site = replace(site, start=job.start)
        shape = (job.stop - job.start,) if self.unit == "element" else step.output.shape
        wide = torch.float64 if step.output.dtype == "F64" else torch.float32
        experts = [self._read(expert, job, shape, wide) for expert in step.experts]
        base = self._read(step.base, job, shape, wide) if step.base is not None and self.uses_base else None
        return Chunk(site, base, experts)

    def _statistics(self, job: Job) -> list[Tensor] | None:
        """Return what was collected of each expert for a whole tensor; None where there is nothing."""
        places = job.step.statistics
        whole = [job._replace(stop=place.spec.size) for place in places]
        wide = torch.float64 if any(place.spec.dtype == "F64" for place in places) else torch.float32
        found = [self._read(place, one, place.spec.shape, wide) for place, one in zip(places, whole, strict=True)]
        return found or None

    def _read(self, place: Input, job: Job, shape: Sequence[int], wide: torch.dtype) -> Tensor:
        source = self.plan.sources[place.source]
        content = source.read(place.spec.name, job.start, job.stop)
        tensor = as_tensor(content, place.spec.dtype, shape).to(self.device).to(wide)
        return finite(tensor, source.label, place.spec, job.start)
