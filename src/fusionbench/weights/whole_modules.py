"""Whole modules as Python pickled them: their tensors, without the code of their classes, converted once.

What `state_dict()` of the module would give is written to a folder of safetensors under the cache folder, with a
`config.json` where the architecture is known by its tensors; from then on only that is read.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from torch import Tensor

from fusionbench.cache import cache_folder
from fusionbench.errors import CheckpointError
from fusionbench.weights.companions import CONFIG
from fusionbench.weights.headers import Source
from fusionbench.weights.inert import Record, StoredTensor, unpickled
from fusionbench.weights.open_clip import describe
from fusionbench.weights.safetensors import open_safetensors
from fusionbench.weights.tensors import TensorSource
from fusionbench.weights.writer import CheckpointWriter

FORMAT = 1
"""Raised when the same file is converted into something else, so that older conversions are not used again."""
PARTS = ("_parameters", "_buffers", "_modules")
MOST = 100_000
"""Tensors that a module may hold; a file of a few bytes can name more than there is memory for."""
BLOCKS, BLOCK_BYTES = 64, 65536
logger = logging.getLogger(__name__)


def open_whole_module(label: str, path: Path) -> Source | None:
    """Open the file of a pickled module; None where it holds something else.

    Args:
        label: what messages call it.
        path: of a file that `torch.save` or `pickle.dump` made of a module.

    Raises:
        CheckpointError: where it is damaged or hostile, or something in the place of a tensor is none.
        OutputError: where the cache's disk is full or cannot be written.
    """
    place = cache_folder("modules") / _key(path)
    if not place.is_dir():
        with FileLock(place.with_suffix(".lock")):
            if not place.is_dir():
                module = unpickled(path)
                if not _is_module(module):
                    return None
                logger.info("converting %s into %s", path, place)
                _convert(path, module, place)
    return open_safetensors(label, place)


def state_of(path: Path, module: Record) -> dict[str, Tensor]:
    """Return what `module.state_dict()` would: parameters and persistent buffers by name.

    Raises:
        CheckpointError: naming what is no tensor, or a module that is a part of itself.
    """
    found: dict[str, Tensor] = {}
    for name, stored in _tensors(path, module, "", ()):
        try:
            found[name] = stored.load()
        except (ValueError, RuntimeError, OSError) as error:
            raise CheckpointError(f"{path}: the tensor {name} cannot be read: {error}. Download it again.") from None
    return found


def _tensors(path: Path, module: Record, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, StoredTensor]]:
    parameters, buffers, modules = (module.attributes.get(part) or {} for part in PARTS)
    passing = module.attributes.get("_non_persistent_buffers_set") or ()
    kept = {name: item for name, item in buffers.items() if name not in passing}
    for name, item in {**parameters, **kept}.items():
        if isinstance(item, StoredTensor):
            yield prefix + name, item
        elif item is not None:
            raise CheckpointError(f"{path} holds {_kind(item)} in the place of the tensor {prefix}{name}. Refused.")
    if id(module) in above or len(above) > 100:
        raise CheckpointError(f"{path}: the module {prefix.rstrip('.')} is a part of itself. Refused.")
    for name, child in modules.items():
        if child is not None and not _is_module(child):
            raise CheckpointError(f"{path} holds {_kind(child)} in the place of the module {prefix}{name}. Refused.")
        if child is not None:
            yield from _tensors(path, child, f"{prefix}{name}.", (*above, id(module)))


def _is_module(item: Any) -> bool:
    return isinstance(item, Record) and all(isinstance(item.attributes.get(part), Mapping) for part in PARTS)


def _kind(item: Any) -> str:
    return item.origin if isinstance(item, Record) else f"a {type(item).__name__}"


def _convert(path: Path, module: Record, place: Path) -> None:
    count = sum(1 for _, _ in zip(range(MOST + 1), _tensors(path, module, "", ()), strict=False))
    if not 0 < count <= MOST:
        raise CheckpointError(f"{path} holds a module of {'no' if not count else f'more than {MOST:,}'} tensors.")
    source = TensorSource(str(path), state_of(path, module))
    config = describe(source.specs, _heads(module))

    def finish(folder: Path) -> None:
        if config is not None:
            (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")

    about = {"converted_from": path.name, "class": module.origin}
    with CheckpointWriter(place, list(source.specs.values()), metadata=about, finish=finish) as writer:
        for name in source.specs:
            writer.write(name, source.read(name))


def _heads(module: Record) -> int | None:
    """Return the number of attention heads of the first attention that says how many it has."""
    for child in cast("Mapping[str, Any]", module.attributes.get("_modules") or {}).values():
        if isinstance(child, Record):
            heads = child.attributes.get("num_heads")
            found = heads if type(heads) is int else _heads(child)
            if found is not None:
                return found
    return None


def _key(path: Path) -> str:
    """Return a digest of a file: its size and evenly spaced blocks, as of a checkpoint's fingerprint."""
    hasher = hashlib.sha256(f"{FORMAT}".encode())
    try:
        size = path.stat().st_size
        hasher.update(f" {size}".encode())
        with path.open("rb") as content:
            for place in range(0, size, max(BLOCK_BYTES, size // BLOCKS)):
                content.seek(place)
                hasher.update(content.read(BLOCK_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    return hasher.hexdigest()
