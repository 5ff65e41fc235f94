"""An unpickler that imports no class and runs nothing: what a file names becomes a record, tensors become their places.

Whole modules as `torch.save(module)` and `pickle.dump(module)` leave them can be read so without the code that made
them. Three containers are known: torch's zip archive, torch's older stream, and plain pickle, in which every storage is
such a stream by itself.
"""

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from fusionbench.errors import CheckpointError

MAGIC = 0x1950A86A20F9469CFC6C
"""The first object of torch's older stream."""
KINDS = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip
HOSTILE = frozenset({
    "os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "pty", "importlib", "runpy", "ctypes", "commands",
    "webbrowser", "asyncio", "multiprocessing", "pickle", "marshal", "pip", "urllib", "requests", "http", "pdb", "bdb",
})  # fmt: skip
"""Packages of which no model's file needs anything; one that names them is refused, though nothing of it would run."""
BUILT_IN = frozenset({"__builtin__", "builtins", "io", "_io"})
RUNNING = frozenset({"eval", "exec", "execfile", "compile", "open", "file", "input", "__import__", "breakpoint"})
"""Functions of those of which the same is true."""


class Record:
    """Stands for an object whose class is never imported.

    Attributes:
        origin: module and name of that class, as the file has them.
        state: what the object would have been given as its attributes.
    """

    origin = ""

    def __new__(cls, *arguments: Any, **named: Any) -> "Record":  # noqa: ARG004
        """Return an empty record, whatever the object would have been made of."""
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ARG002
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        """Drop what a list's subclass would have held."""

    def __setitem__(self, key: Any, item: Any) -> None:
        """Drop what a mapping's subclass would have held."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The state where it is a mapping, else nothing."""
        return self.state if isinstance(self.state, Mapping) else {}


@dataclass(slots=True)
class Storage:
    """A run of numbers in a file; `read` returns its bytes, once it is known where they are."""

    kind: torch.dtype
    count: int
    read: Callable[[], bytes | memoryview] | None = None


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor by its place in a storage; nothing is read before it is asked for."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self) -> Tensor:
        """Return the tensor, on memory of its own.

        Raises:
            ValueError: where it lies outside its storage, is larger than it, or the storage is not there.
        """
        entries = 1
        for length in self.size:
            entries *= length
        if entries > self.storage.count:
            raise ValueError(f"a tensor of {entries:,} entries in a storage of {self.storage.count:,}")
        if self.storage.read is None:
            raise ValueError("its storage is not in the file")
        raw = bytearray(self.storage.read())
        if len(raw) != self.storage.count * self.storage.kind.itemsize:
            raise ValueError(f"its storage has {len(raw):,} bytes")
        flat = torch.frombuffer(raw, dtype=self.storage.kind) if raw else torch.empty(0, dtype=self.storage.kind)
        return flat.as_strided(self.size, self.stride, self.offset).contiguous()


@dataclass(slots=True)
class _Given:
    """A function by which torch's own files make tensors; it can be called and nothing else."""

    call: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


@dataclass(frozen=True, slots=True)
class _Kind:
    kind: torch.dtype


@dataclass(slots=True)
class _Storages:
    """The storages that a container's pickle has named, by key."""

    found: dict[str, Storage] = field(default_factory=dict)

    def named(self, reference: Any) -> Storage:
        """Return the storage of a persistent id, as torch writes them."""
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise pickle.UnpicklingError("it refers to something outside that is no storage")
        _, kind, key, _, count, *view = reference
        if not isinstance(kind, _Kind) or type(count) is not int or count < 0 or any(view):
            raise pickle.UnpicklingError(f"it describes the storage {key!r} wrongly")
        return self.found.setdefault(str(key), Storage(kind.kind, count))


class _Unpickler(pickle.Unpickler):
    """Gives records for all that a stream names, but for what tensors are made of."""

    def __init__(self, stream: IO[bytes], storages: _Storages | None, *, nested: bool = False) -> None:
        super().__init__(stream, encoding="utf-8")
        self._storages, self._nested = storages, nested

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in; nothing is ever imported."""
        if module in BUILT_IN and name == "set":
            return _Given(lambda items=(): frozenset(items))
        if module.partition(".")[0] in HOSTILE or (module in BUILT_IN and name in RUNNING):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no model needs")
        if (module, name) == ("collections", "OrderedDict"):
            return _Given(lambda items=(): dict(items))
        if module in ("torch", "torch.storage") and name in KINDS:
            return _Kind(KINDS[name])
        if (module, name) == ("torch.storage", "_load_from_bytes") and not self._nested:
            return _Given(_nested_storage)
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _Given(_tensor)
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return _Given(lambda data, *_: data)
        # A class of its own each time, so that nothing a file does to it is seen elsewhere.
        return type("Record", (Record,), {"origin": f"{module}.{name}"})

    def persistent_load(self, reference: Any) -> Any:
        """Return the storage that the stream refers to; or a class, beside which older files put its source code."""
        if isinstance(reference, tuple) and len(reference) == 4 and reference[0] == "module":
            return reference[1]
        if self._storages is None:
            raise pickle.UnpicklingError("it refers to something outside")
        return self._storages.named(reference)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor:
    places = (offset, *size, *stride)
    if not isinstance(storage, Storage) or not all(type(number) is int and number >= 0 for number in places):
        raise pickle.UnpicklingError("it describes a tensor wrongly")
    return StoredTensor(storage, offset, tuple(size), tuple(stride))


def _nested_storage(content: bytes) -> Storage:
    found = _read_stream(io.BytesIO(content), len(content), nested=True)
    if not isinstance(found, Storage):
        raise pickle.UnpicklingError("it describes a storage wrongly")
    return found


def unpickled(path: Path) -> Any:
    """Return what a file holds: plain data as it is, objects as `Record`, tensors as `StoredTensor`.

    Raises:
        CheckpointError: where the file is damaged, or asks for what no model needs; nothing of it was run.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with path.open("rb") as file:
            return _read_stream(file, path.stat().st_size)
    except Exception as error:
        # A damaged or hostile stream makes a dozen kinds of error; each means that the file cannot be trusted.
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"{path} is refused: {why}. Nothing in it was run. Download it again.") from None


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        held = {info.filename: info for info in archive.infolist()}
        (pickled,) = (name for name in held if name.endswith("data.pkl"))
        root = pickled.removesuffix("data.pkl")
        check_parts(archive, path.stat().st_size)
        if f"{root}byteorder" in held and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")
        storages = _Storages()
        found = _Unpickler(io.BytesIO(archive.read(pickled)), storages).load()
    for key, storage in storages.found.items():
        if f"{root}data/{key}" in held:
            storage.read = _member(path, f"{root}data/{key}")
    return found


def check_parts(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive that would be larger in memory than the file is.

    Raises:
        ValueError: saying why.
    """
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError("its parts are compressed, which torch never does")
    if (said := sum(part.file_size for part in parts)) > size:
        raise ValueError(f"its parts are said to have {said:,} bytes, it has {size:,}")


def _member(path: Path, name: str) -> Callable[[], bytes]:
    def read() -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)

    return read


def _read_stream(stream: IO[bytes], size: int, *, nested: bool = False) -> Any:
    """Return the object of torch's older stream, or of a plain pickle."""
    storages = _Storages()
    first = _Unpickler(stream, None, nested=nested).load()
    if first != MAGIC:
        if nested:
            raise pickle.UnpicklingError("it describes a storage wrongly")
        return first
    protocol, system = (_Unpickler(stream, None, nested=True).load() for _ in range(2))
    if protocol != 1001 or not system.get("little_endian", True):
        raise ValueError(f"its form is not known (protocol {protocol}, {system})")
    found = _Unpickler(stream, storages, nested=True).load()
    for key in _Unpickler(stream, None, nested=True).load():
        _place(storages.found[str(key)], stream, size)
    return found


def _place(storage: Storage, stream: IO[bytes], size: int) -> None:
    """Say where a storage's bytes are: after their number, which stands before them."""
    count = int.from_bytes(stream.read(8), "little")
    start, length = stream.tell(), count * storage.kind.itemsize
    if count != storage.count or start + length > size:
        raise ValueError(f"it ends within its numbers, of which {count:,} should stand at byte {start:,}")
    name = getattr(stream, "name", None)
    held: Sequence[int] | None = None if name is not None else stream.read(length)
    if name is None:
        storage.read = lambda: held  # type: ignore[assignment]
        return
    stream.seek(length, io.SEEK_CUR)

    def read() -> bytes:
        with open(name, "rb") as file:
            file.seek(start)
            return file.read(length)

    storage.read = read
