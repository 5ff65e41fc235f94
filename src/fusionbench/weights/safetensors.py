"""Checkpoints in safetensors: one file, or shards with an index; mapped, never loaded. No torch here.

A header is read as if an enemy had written it: its length, the tensors' kinds, shapes and places are held against the
file before anything else believes them.
"""

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from fusionbench.errors import CheckpointError
from fusionbench.weights.documents import read_json
from fusionbench.weights.headers import ITEM_BYTES, TensorSpec
from fusionbench.weights.mapped_memory import give_back

HEADER_LIMIT = 100_000_000
"""Bytes; the format's own bound."""
SAMPLES, SAMPLE_BYTES, PAGE_BYTES = 64, 1 << 16, 1 << 12
"""A fingerprint looks at so many evenly spaced blocks of a file, of so many bytes; at every tensor that is no longer
than a block, and at a page in the middle of each other one, so that a model of which one part was trained is another.
"""
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAMES = ("model.safetensors", "diffusion_pytorch_model.safetensors", "adapter_model.safetensors")


class SafetensorsFile:
    """One file: its header, checked, and its bytes, mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.size = path.stat().st_size
            with path.open("rb") as file:
                self._header_bytes = header_bytes(path, file.read(8), self.size)
                self.header = file.read(self._header_bytes)
        except (OSError, ValueError) as error:
            # An index may name a file that no system could have.
            raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', error)}.") from None
        self.metadata, self.specs, self._offsets = parse_header(path, self.header, self.size - 8 - self._header_bytes)

    @cached_property
    def _map(self) -> memoryview:
        with self.path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of flat entries `start` to `stop` of a tensor."""
        first, item = self._places[name]
        stop = self.specs[name].size if stop is None else stop
        return self._map[first + start * item : first + stop * item]

    def let_go(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Give back the memory of flat entries `start` to `stop`; they come from the file again when asked."""
        first, item = self._places[name]
        stop = self.specs[name].size if stop is None else stop
        give_back(self._map.obj, first + start * item, first + stop * item)

    def let_all_go(self) -> None:
        """Give back the memory of everything that was read."""
        give_back(self._map.obj, 0, self.size)

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Where each tensor begins in the file, and the bytes of one entry."""
        begin = 8 + self._header_bytes
        return {name: (begin + offset, ITEM_BYTES[self.specs[name].dtype]) for name, offset in self._offsets.items()}

    def digest(self, hasher: Any) -> None:
        """Feed header, size and samples of the content to `hasher`; a file of at most 4 MiB whole."""
        hasher.update(self.header + struct.pack("<Q", self.size))
        for start, stop in self._sampled():
            hasher.update(self._map[start:stop])

    @cached_property
    def fingerprint(self) -> str:
        """`fp:` and a SHA-256 over header, size and samples; taken once of an opened file."""
        hasher = hashlib.sha256()
        self.digest(hasher)
        return f"fp:{hasher.hexdigest()}"

    def _sampled(self) -> Iterator[tuple[int, int]]:
        """Yield where samples begin and end: evenly spaced blocks, small tensors whole, a page of each other one."""
        first = 8 + self._header_bytes
        step = max(SAMPLE_BYTES, (self.size - first) // SAMPLES)
        for start in range(first, self.size, step):
            yield start, min(start + SAMPLE_BYTES, self.size)
        for name, spec in self.specs.items() if step > SAMPLE_BYTES else ():
            start, count = first + self._offsets[name], spec.nbytes
            if count > SAMPLE_BYTES:
                start, count = start + (count - PAGE_BYTES) // 2, PAGE_BYTES
            yield start, start + count


class SafetensorsSource:
    """A checkpoint of one or several safetensors files, with the folder's configuration."""

    def __init__(self, label: str, files: list[SafetensorsFile], folder: Path | None) -> None:
        self.label = label
        self.folder = folder
        self.files = files
        self._file_of = {name: file for file in files for name in file.specs}
        self.specs: Mapping[str, TensorSpec] = {name: file.specs[name] for name, file in self._file_of.items()}

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The folder's `config.json`, or nothing."""
        return read_config(self.folder) if self.folder else {}

    @property
    def metadata(self) -> Mapping[str, str]:
        """The first file's free-form metadata."""
        return self.files[0].metadata

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of flat entries `start` to `stop` of a tensor."""
        return self._file_of[name].read(name, start, stop)

    def let_go(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Give back the memory that holds what was read of a tensor."""
        self._file_of[name].let_go(name, start, stop)

    def fingerprint(self) -> str:
        """Return `fp:` and a SHA-256 over every file's header, size and samples; see `SafetensorsFile.digest`."""
        if len(self.files) == 1:
            return self.files[0].fingerprint
        hasher = hashlib.sha256()
        for file in self.files:
            file.digest(hasher)
        return f"fp:{hasher.hexdigest()}"


def open_safetensors(label: str, path: Path) -> SafetensorsSource | None:
    """Open a file or a folder; None where the folder holds no safetensors.

    Where an index and a single file that is none of its shards lie in one folder, the single file is the model: so it
    is for transformers. To read the shards, name the index.

    Raises:
        CheckpointError: where a file is missing, truncated or corrupt, or an index points outside its folder.
    """
    if path.is_file():
        if path.name.endswith(".index.json"):
            return SafetensorsSource(label, _shards(path), path.parent)
        return SafetensorsSource(label, [SafetensorsFile(path)], path.parent)
    single = next((path / name for name in SINGLE_NAMES if (path / name).is_file()), None)
    index = path / INDEX_NAME
    if index.is_file() and (single is None or _is_shard(single.name, index)):
        return SafetensorsSource(label, _shards(index), path)
    return None if single is None else SafetensorsSource(label, [SafetensorsFile(single)], path)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the folder's `config.json`, or nothing where there is none.

    Raises:
        CheckpointError: where it is no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        config = read_json(path)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} should hold a JSON object, it holds a {type(config).__name__}.")
    return config


def _is_shard(name: str, index: Path) -> bool:
    """Tell whether an index names a file; what is wrong with it is found when it is read."""
    try:
        return name in read_json(index)["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _shards(index: Path) -> list[SafetensorsFile]:
    try:
        weight_map = read_json(index)["weight_map"]
        wanted = {str(name): str(file) for name, file in weight_map.items()}
        if not wanted:
            raise ValueError("its weight_map is empty")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index} is no index of shards ({error}); it needs a 'weight_map' of names to files."
        ) from None
    for file in set(wanted.values()):
        if Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(f"{index} names the shard {file!r}, which lies outside its folder. It is refused.")
    files = [SafetensorsFile(index.parent / file) for file in sorted(set(wanted.values()))]
    held = {name: file.path.name for file in files for name in file.specs}
    if sum(len(file.specs) for file in files) != len(held):
        raise CheckpointError(f"Two shards of {index} hold a tensor of the same name.")
    lies = [
        f"{name} (the index says {file}, it is in {held.get(name, 'none')})"
        for name, file in wanted.items()
        if held.get(name) != file
    ]
    lies += [f"{name} (in {file}, not in the index)" for name, file in held.items() if name not in wanted]
    if lies:
        raise CheckpointError(
            f"{index} does not tell the truth about: {'; '.join(sorted(lies)[:5])}. Download the model again."
        )
    return files


def header_bytes(path: Path | str, first: bytes, size: int) -> int:
    """Return the length of a header by the first eight bytes of a file of `size` bytes.

    Raises:
        CheckpointError: where it is more than the file, or than any header may have.
    """
    if len(first) < 8:
        raise CheckpointError(f"{path} has {size} bytes: too short for a safetensors file. Download or save it again.")
    length = int(struct.unpack("<Q", first)[0])
    if length > HEADER_LIMIT or length + 8 > size:
        raise CheckpointError(
            f"{path} says that its header has {length:,} bytes, the file has {size:,}: "
            "it is truncated or no safetensors file. Download or save it again."
        )
    return length


def parse_header(
    path: Path | str, raw: bytes, data_bytes: int
) -> tuple[dict[str, str], dict[str, TensorSpec], dict[str, int]]:
    """Return metadata, specs and first bytes of a header, each held against the size of the data.

    Raises:
        CheckpointError: where it does not tell the truth.
    """
    try:
        header = json.loads(raw, object_pairs_hook=_no_duplicates)
        metadata = header.pop("__metadata__", None)
        metadata = {} if metadata is None else metadata
        if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
            raise ValueError("__metadata__ should map names to text")
        specs, spans = {}, []
        for name, entry in header.items():
            spec = TensorSpec(name, entry["dtype"], tuple(entry["shape"]))
            begin, end = entry["data_offsets"]
            if spec.dtype not in ITEM_BYTES:
                raise ValueError(f"{name} is of the unknown kind {spec.dtype}")
            if not all(type(n) is int and n >= 0 for n in (*spec.shape, begin, end)) or end - begin != spec.nbytes:
                raise ValueError(f"{name} {spec.dtype} {list(spec.shape)} does not fill bytes {begin} to {end}")
            specs[name] = spec
            spans.append((begin, end, name))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        why = str(error) or type(error).__name__
        raise CheckpointError(f"{path} has a corrupt header: {why}. Download or save it again.") from None
    spans.sort()
    place = 0
    for begin, end, name in spans:
        if begin != place:
            raise CheckpointError(f"{path} has a corrupt header: {name} begins at byte {begin}, not at {place}.")
        place = end
    if place != data_bytes:
        raise CheckpointError(
            f"{path} should hold {place:,} bytes of tensors, it holds {data_bytes:,}: "
            f"{'it is truncated' if place > data_bytes else 'bytes are left over'}. Download or save it again."
        )
    return metadata, specs, {name: begin for begin, _, name in spans}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
