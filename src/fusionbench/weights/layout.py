"""Where each tensor of a checkpoint lies: which file, at which byte, and the files' headers. No torch here.

It follows from the tensors, their order, the bytes a file may hold and the metadata alone, so that several processes
that know these know it too.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from fusionbench.weights.headers import TensorSpec
from fusionbench.weights.safetensors import INDEX_NAME

SHARD_BYTES = 5_000_000_000


class Layout:
    """The files of a checkpoint.

    Attributes:
        shards: the tensors of each file, in their order.
        headers: what each file begins with.
    """

    def __init__(
        self, specs: Sequence[TensorSpec], metadata: Mapping[str, str], shard_bytes: int = SHARD_BYTES
    ) -> None:
        """Divide tensors among files.

        Args:
            specs: the tensors, in the order of the files.
            metadata: free-form text that every file's header carries; the recipe is in it.
            shard_bytes: bytes of tensors a file holds at most, if more than one tensor is in it.
        """
        self.shards = tuple(_split(specs, shard_bytes))
        about = {"format": "pt", **metadata}
        self.headers = tuple(_header(shard, about) for shard in self.shards)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for shard in self.shards for spec in shard)

    def key(self, identity: str) -> str:
        """Return a digest of what is made and of all headers."""
        return sha256(b"\0".join([identity.encode(), *self.headers])).hexdigest()

    def file_name(self, number: int) -> str:
        """Return the name of a file, as Hugging Face's libraries name it."""
        if len(self.shards) == 1:
            return "model.safetensors"
        return f"model-{number + 1:05d}-of-{len(self.shards):05d}.safetensors"

    def length(self, number: int) -> int:
        """Return the bytes of a file."""
        return len(self.headers[number]) + sum(spec.nbytes for spec in self.shards[number])

    def is_whole(self, folder: Path, number: int) -> bool:
        """Tell whether a file is there at its length."""
        path = folder / self.file_name(number)
        return path.is_file() and path.stat().st_size == self.length(number)

    def places(self, number: int) -> Iterator[tuple[TensorSpec, int]]:
        """Yield the tensors of a file, each with the byte at which it begins."""
        place = len(self.headers[number])
        for spec in self.shards[number]:
            yield spec, place
            place += spec.nbytes

    def write_index(self, folder: Path) -> None:
        """Write the table of names and files, where there are several files."""
        if len(self.shards) > 1:
            names = {spec.name: self.file_name(n) for n, shard in enumerate(self.shards) for spec in shard}
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": names}
            (folder / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n")


def _split(specs: Sequence[TensorSpec], shard_bytes: int) -> Iterator[tuple[TensorSpec, ...]]:
    shard: list[TensorSpec] = []
    size = 0
    for spec in specs:
        if shard and size + spec.nbytes > shard_bytes:
            yield tuple(shard)
            shard, size = [], 0
        shard.append(spec)
        size += spec.nbytes
    yield tuple(shard)


def _header(shard: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, object] = {"__metadata__": dict(metadata)}
    place = 0
    for spec in shard:
        table[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [place, place + spec.nbytes],
        }
        place += spec.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
