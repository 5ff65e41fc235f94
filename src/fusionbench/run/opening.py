"""Open any fused model that was saved: a checkpoint, an adapter, a mixture, or several models that answer together."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fusionbench.merge import Pool
from fusionbench.methods._preference import at_preference
from fusionbench.methods._saved import OPENERS, open_saved
from fusionbench.mixing import Fused
from fusionbench.mixing.assemble import opened
from fusionbench.mixing.blueprint import Blueprint
from fusionbench.mixing.fused import Device
from fusionbench.mixing.mixed import MixedModel
from fusionbench.records import MethodRef
from fusionbench.registry import methods
from fusionbench.weights.adapters import is_adapter, open_adapter
from fusionbench.weights.hub import resolve
from fusionbench.weights.safetensors import SafetensorsFile
from fusionbench.weights.sources import open_source


class Opened(NamedTuple):
    """A fused model with what tells it from others.

    Attributes:
        fused: what predicts.
        fingerprint: a digest of its files.
        folder: that it lies in, where it lies in one.
        metadata: text in its header.
        method: that it says it was made by, where one says so beside its tensors.
    """

    fused: Fused
    fingerprint: str
    folder: Path | None
    metadata: Mapping[str, str]
    method: MethodRef | None


def open_fused(
    model: str | Path, pool: Pool, device: Device = "cpu", *, preference: Sequence[float] | None = None
) -> Opened:
    """Return a model, a folder, a file or a hub id, as what answers tasks: the same bits as before it was saved.

    Args:
        model: a checkpoint, an adapter of the pool's base, or what `save` of any fused model wrote. Of variants, the
            folder of one.
        pool: of the tasks; its base is what adapters and masks are put on.
        device: where it runs.
        preference: of a model that a preference weighs, the one that it is merged for; one weight an expert.

    Raises:
        FusionBenchError: where there is no model, it is damaged, or does not fit the pool.
    """
    place = resolve(model)
    together = open_saved(place, pool, device) if place.is_dir() else None
    if together is not None:
        found = Opened(together, _fingerprint(place), place, {}, _named(together.method))
    else:
        source = open_adapter(model, pool.base, "dense") if is_adapter(model) else open_source(model)
        fused = opened(source, pool, device)
        about = _described(fused.blueprint) if isinstance(fused, MixedModel) else None
        found = Opened(fused, source.fingerprint(), source.folder, getattr(source, "metadata", {}), about)
    if preference is None:
        return found
    return found._replace(fused=at_preference(found.fused, preference, pool, device))


def _named(method: str | None) -> MethodRef | None:
    if method is None:
        return None
    return MethodRef(name=method, version=methods[method].version if method in methods else 1)


def _described(blueprint: Blueprint) -> MethodRef:
    return MethodRef(name=blueprint.method, version=blueprint.version, params=blueprint.params)


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
