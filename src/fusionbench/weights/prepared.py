"""What first passes found, as a file of plain data for other processes: text and arrays, no pickle. No torch here.

The file is NumPy's archive of flat arrays, one for each kind of number, and a text in JSON that says what is where.
"""

import dataclasses
import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fusionbench.errors import CheckpointError, FusionBenchError
from fusionbench.registry import Entry, methods
from fusionbench.weights.engine import Prepared

TREE = "tree"
PLAIN = (str, int, float, bool, type(None))


def save_prepared(path: Path, prepared: Prepared) -> None:
    """Write what first passes found, whole or not at all.

    Raises:
        FusionBenchError: where it holds something that is no plain data.
    """
    arrays = _Arrays()
    text = json.dumps({"found": _encoded(prepared.found, arrays), "passes": prepared.passes})
    members: dict[str, Any] = {TREE: np.frombuffer(text.encode(), np.uint8), **arrays.joined()}
    torn = path.with_name(f"{path.name}.{os.getpid()}")
    with torn.open("wb") as file:
        np.savez(file, **members)
        file.flush()
        os.fsync(file.fileno())
    os.replace(torn, path)


def load_prepared(path: Path) -> Prepared:
    """Return what `save_prepared` wrote.

    Raises:
        CheckpointError: where the file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        tree = json.loads(arrays.pop(TREE).tobytes())
        return Prepared(_decoded(tree["found"], arrays), int(tree["passes"]))
    except (OSError, BadZipFile, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Remove its folder, and run the merge again.") from None


class _Arrays:
    """Arrays in the order in which they were met, those of a kind end to end."""

    def __init__(self) -> None:
        self._held: dict[str, list[np.ndarray[Any, Any]]] = {}
        self._lengths: dict[str, int] = {}

    def add(self, array: np.ndarray[Any, Any]) -> list[Any]:
        """Return where an array will be found: kind, first entry, shape."""
        kind = array.dtype.str
        start = self._lengths.get(kind, 0)
        self._held.setdefault(kind, []).append(array.reshape(-1))
        self._lengths[kind] = start + array.size
        return [kind, start, list(array.shape)]

    def joined(self) -> dict[str, np.ndarray[Any, Any]]:
        return {kind: np.concatenate(held) for kind, held in self._held.items()}


def _array(place: list[Any], arrays: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    kind, start, shape = place
    size = int(np.prod(shape, dtype=np.int64))
    return arrays[kind][start : start + size].reshape(shape).copy()


def _encoded(value: Any, arrays: _Arrays) -> Any:
    """Return a value as JSON can hold it; what is no text, number or None is an object of one key, its kind."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, np.ndarray | np.generic):
        return {"scalar" if isinstance(value, np.generic) else "array": arrays.add(np.asarray(value))}
    if isinstance(value, Entry):
        return {"method": value.name}
    if type(value).__module__ == "torch":
        from fusionbench.weights.tensors import SAFETENSORS, as_bytes

        raw = np.frombuffer(as_bytes(value), np.uint8)
        return {"tensor": [SAFETENSORS[value.dtype], list(value.shape), arrays.add(raw)]}
    if (fields := _fields(type(value))) is not None:
        parts = [_encoded(getattr(value, field), arrays) for field in fields]
        return {"made": [type(value).__module__, type(value).__qualname__, parts]}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_encoded(item, arrays) for item in value]}
    if isinstance(value, Counter | set):
        held = dict.fromkeys(sorted(value)) if isinstance(value, set) else {**value}
        return {type(value).__name__: _encoded(held, arrays)}
    if isinstance(value, Mapping):
        return {"map": [[_encoded(key, arrays), _encoded(item, arrays)] for key, item in value.items()]}
    if callable(value) and isinstance(entry := getattr(value, "entry", None), Entry):
        return {"function": entry.name}
    raise FusionBenchError(
        f"What this method's first pass found holds a {type(value).__name__}, which cannot be handed to other "
        "processes. Merge without runtime.launcher."
    )


def _decoded(tree: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, held),) = tree.items()
    if kind in ("array", "scalar"):
        found = _array(held, arrays)
        return found if kind == "array" else found[()]
    if kind in ("method", "function"):
        return methods[held] if kind == "method" else methods[held].load()
    if kind == "tensor":
        from fusionbench.weights.tensors import as_tensor

        word, shape, place = held
        return as_tensor(_array(place, arrays), word, shape)
    if kind == "made":
        module, name, parts = held
        return _class(module, name)(*(_decoded(part, arrays) for part in parts))
    if kind == "map":
        return {_decoded(key, arrays): _decoded(item, arrays) for key, item in held}
    if kind in ("Counter", "set"):
        return {"Counter": Counter, "set": set}[kind](_decoded(held, arrays))
    return {"tuple": tuple, "list": list}[kind](_decoded(item, arrays) for item in held)


def _class(module: str, name: str) -> type:
    """Return a class of plain fields, of this package or of one that is loaded: a file calls nothing else."""
    if module.partition(".")[0] == "fusionbench":
        importlib.import_module(module)
    found = getattr(sys.modules[module], name)
    if not isinstance(found, type) or _fields(found) is None:
        raise ValueError(f"{module}.{name} is no class of plain fields")
    return found


def _fields(kind: type) -> tuple[str, ...] | None:
    """Return the fields of a data class or a named tuple, None for other types."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return getattr(kind, "_fields", None) if issubclass(kind, tuple) else None
