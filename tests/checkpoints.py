"""Small checkpoints for tests: by the safetensors library, or byte by byte where that would refuse to write them."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    """One tensor's entry in a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def raw_safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a file with this header, an object for JSON or bytes, and with this lie about its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def save_model(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, shards: int = 1
) -> Path:
    """Write a folder as Hugging Face lays it out: one file, or `shards` files with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for number in range(shards):
            file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            held = names[number::shards]
            save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(held, file)
        write_index(folder, weight_map)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_index(folder: Path, weight_map: object) -> Path:
    """Write an index of shards, true or not."""
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def read_model(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, as the safetensors library reads them."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors
