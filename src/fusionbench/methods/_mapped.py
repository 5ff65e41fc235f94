"""Tensors that lie in files: the system reads them when they are looked at, and takes their memory back when told."""

import mmap
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fusionbench.weights.headers import Source
from fusionbench.weights.mapped_memory import give_back
from fusionbench.weights.safetensors import SafetensorsSource
from fusionbench.weights.tensors import TORCH


class MappedTensors(Mapping[str, Tensor]):
    """The float tensors of a checkpoint as views of its files, without a copy; whoever changes one changes no file."""

    def __init__(self, source: SafetensorsSource) -> None:
        """Map every file of a checkpoint once more, for this object alone."""
        self._places: dict[str, tuple[mmap.mmap, int]] = {}
        self._specs = {name: spec for name, spec in source.specs.items() if spec.is_float and spec.size}
        for file in source.files:
            with file.path.open("rb") as opened:
                own = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
            for name in file.specs:
                content = file.read(name)
                if name in self._specs:
                    self._places[name] = own, _address(content) - _address(content.obj)

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor in the kind of number it is stored in."""
        spec, (file, offset) = self._specs[name], self._places[name]
        return torch.frombuffer(file, dtype=TORCH[spec.dtype], count=spec.size, offset=offset).view(spec.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def let_go(self, name: str) -> None:
        """Give back the memory that holds what was read of a tensor; it comes from the file again when asked."""
        file, offset = self._places[name]
        give_back(file, offset, offset + self._specs[name].nbytes)


class ScratchFiles:
    """Files of one's own for tensors that do not fit into memory; they are gone when this object is."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="deltas-"))
        self._files: dict[str, mmap.mmap] = {}
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def empty(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a float32 tensor in a file of its own."""
        size = 4 * int(np.prod(shape))
        if not size:
            return torch.empty(shape)
        with (self._folder / str(len(self._files))).open("w+b") as file:
            file.truncate(size)
            self._files[name] = mmap.mmap(file.fileno(), size)
        return torch.frombuffer(self._files[name], dtype=torch.float32).view(shape)

    def let_go(self, name: str) -> None:
        """Give back the memory of a tensor; the file keeps what was written."""
        if name in self._files:
            give_back(self._files[name], 0, len(self._files[name]))


def release(source: Source) -> None:
    """Let go of the memory that holds what was read of a mapped checkpoint; it comes from the file again when asked."""
    for file in source.files if isinstance(source, SafetensorsSource) else ():
        file.let_all_go()


def _address(content: object) -> int:
    return int(np.frombuffer(content, np.uint8).ctypes.data)  # type: ignore[call-overload]
