"""What is known of a checkpoint before a byte of its tensors is read: names, kinds of number, shapes. No torch here."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one entry by safetensors' name of its kind."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
NUMPY = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "F8_E4M3": np.uint8, "F8_E5M2": np.uint8,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
"""The NumPy type that holds an entry's bits; bfloat16 and float8 have no type of their own there."""
WORDS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
"""torch's names of the floating kinds, as recipes and configurations write them."""


class TensorSpec(NamedTuple):
    """One tensor of a checkpoint: `dtype` in safetensors' words."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return self.size * ITEM_BYTES[self.dtype]

    @property
    def is_float(self) -> bool:
        """Whether the entries are floating-point numbers, which methods merge."""
        return self.dtype in FLOATS


class Source(Protocol):
    """One checkpoint in any layout, under canonical names."""

    @property
    def label(self) -> str:
        """What messages call it: the reference that the user gave."""
        ...

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's `config.json`; empty where there is none."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where its other files (configuration, tokenizer) lie; None for a model in memory."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of flat entries `start` to `stop` of a tensor, mapped from disk where that is possible."""
        ...

    def fingerprint(self) -> str:
        """Return a digest of the content, the same on every machine."""
        ...


def as_buffer(array: np.ndarray[Any, Any]) -> memoryview:
    """Return the bytes of a contiguous array."""
    return array.data.cast("B") if array.size else memoryview(b"")


def entries(source: Source, spec: TensorSpec, start: int = 0, stop: int | None = None) -> np.ndarray[Any, Any]:
    """Return flat entries of a tensor as an array of the NumPy type that holds their bits (a view, read only)."""
    return np.frombuffer(source.read(spec.name, start, stop), dtype=NUMPY[spec.dtype])
