"""Open any fused model that was saved: a checkpoint, an adapter, a mixture, or several models that answer together."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fusionbench.merge import Pool
from fusionbench.methods._saved import OPENERS, open_saved
from fusionbench.mixing import Fused
from fusionbench.mixing.assemble import opened
from fusionbench.mixing.fused import Device
from fusionbench.weights.adapters import is_adapter, open_adapter
from fusionbench.weights.safetensors import SafetensorsFile
from fusionbench.weights.sources import open_source


class Opened(NamedTuple):
    """A fused model with what tells it from others.

    Attributes:
        fused: what predicts.
        fingerprint: a digest of its files.
        folder: that it lies in, where it lies in one.
        metadata: text in its header.
    """

    fused: Fused
    fingerprint: str
    folder: Path | None
    metadata: Mapping[str, str]


def open_fused(model: str | Path, pool: Pool, device: Device = "cpu") -> Opened:
    """Return a model, a folder, a file or a hub id, as what answers tasks: the same bits as before it was saved.

    Args:
        model: a checkpoint, an adapter of the pool's base, or what `save` of any fused model wrote. Of variants, the
            folder of one.
        pool: of the tasks; its base is what adapters and masks are put on.
        device: where it runs.

    Raises:
        FusionBenchError: where there is no model, it is damaged, or does not fit the pool.
    """
    folder = _folder_at(model)
    together = None if folder is None else open_saved(folder, pool, device)
    if folder is not None and together is not None:
        return Opened(together, _fingerprint(folder), folder, {})
    source = open_adapter(model, pool.base, "dense") if is_adapter(model) else open_source(model)
    fused = opened(source, pool, device)
    return Opened(fused, source.fingerprint(), source.folder, getattr(source, "metadata", {}))


def _folder_at(model: str | Path) -> Path | None:
    """Return the local folder of this name; None where there is none, as of a hub id."""
    try:
        folder = Path(model).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):
        # A home that is not there, or a text that no file system takes for a name.
        return None


def _fingerprint(folder: Path) -> str:
    """Return `fp:` and a SHA-256 over what says how the parts belong together, and all tensors under the folder."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.name in OPENERS or path.suffix == ".safetensors"):
        found.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        if path.suffix == ".safetensors":
            SafetensorsFile(path).digest(found)
        else:
            found.update(path.read_bytes())
    return f"fp:{found.hexdigest()}"
