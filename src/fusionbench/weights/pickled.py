"""Checkpoints of torch's own format (`.bin`, `.pt`): tensors, mapped, or a whole module; nothing is ever executed."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusionbench.errors import CheckpointError
from fusionbench.weights.documents import read_json
from fusionbench.weights.headers import Source
from fusionbench.weights.inert import check_parts
from fusionbench.weights.safetensors import read_config
from fusionbench.weights.tensors import TensorSource
from fusionbench.weights.whole_modules import open_whole_module

NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which training code keeps the weights beside other things."""


def open_pickled(label: str, path: Path, folder: Path) -> Source:
    """Open a pickled state dict, the index of its shards, or a whole module that was pickled.

    Raises:
        CheckpointError: where it holds anything but tensors or a module (code is never run), is damaged, or an index
            points outside its folder.
    """
    wanted = _shards(path) if path.name.endswith(".index.json") else {}
    tensors: dict[str, Tensor] = {}
    try:
        for file in sorted(set(wanted.values())) or [path]:
            tensors.update(_load(file))
    except CheckpointError:
        module = None if wanted or not path.is_file() else open_whole_module(label, path)
        if module is None:
            raise
        return module
    missing = sorted(set(wanted) - set(tensors))
    if missing:
        raise CheckpointError(f"{path} names tensors that are in no shard: {', '.join(missing[:5])}.")
    source = TensorSource(label, tensors, read_config(folder))
    source.folder = folder
    return source


def _shards(index: Path) -> dict[str, Path]:
    """Return the file of each tensor that an index names."""
    try:
        files = {str(name): str(file) for name, file in read_json(index)["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is no index of shards ({error}).") from None
    outside = [file for file in files.values() if Path(file).name != file]
    if outside:
        raise CheckpointError(f"{index} names the shard {outside[0]!r}, which lies outside its folder. It is refused.")
    return {name: index.parent / file for name, file in files.items()}


def _load(path: Path) -> Mapping[str, Tensor]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_parts(archive, path.stat().st_size)
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing.") from None
    except Exception as error:
        # torch raises a dozen kinds of error on damaged files; each means that the file cannot be trusted.
        raise CheckpointError(
            f"{path} cannot be read as tensors only: {(str(error) or type(error).__name__).splitlines()[0][:200]} "
            "Convert it to safetensors where you trust it."
        ) from None
    for key in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise CheckpointError(f"{path} holds something other than tensors by name. Save the model's state_dict.")
    for name, tensor in content.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: {name} has {tensor.numel():,} entries, its storage {tensor.untyped_storage().nbytes():,} "
                "bytes: a few numbers are repeated. Save tensor.contiguous(), where you trust it."
            )
    return content
