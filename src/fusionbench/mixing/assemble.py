"""From what was rebuilt, on disk or in memory, to what predicts."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fusionbench.families import family_for
from fusionbench.merge import Pool
from fusionbench.mixing.build import family_of, fused_weights
from fusionbench.mixing.fused import Device, Fused, FusedWeights
from fusionbench.mixing.mixed import MixedModel, open_mixed
from fusionbench.mixing.rebuild import rebuild, rebuilder_of
from fusionbench.registry import Entry
from fusionbench.weights.checks import fit
from fusionbench.weights.headers import Source
from fusionbench.weights.layers import COUNTS
from fusionbench.weights.tensors import LazyWeights, TensorSource


def opened(source: Source, pool: Pool, device: Device = "cpu") -> Fused:
    """Return the fused model that a checkpoint holds: mixed, of another architecture than the pool's, or plain.

    Raises:
        CheckpointError: where its blueprint is damaged.
        ConfigError: where no family serves its architecture.
        IncompatibleModels: where it is said to be of the pool's architecture, and is not.
    """
    mixed = open_mixed(source, device=device)
    if mixed is not None:
        return mixed
    weights = LazyWeights(source)
    if _rebuilt(source, pool.reference):
        return FusedWeights(weights, family_for(source.config), source, device=device)
    fit(pool.reference, {source.label: source}, tower=pool.tower)
    return fused_weights(weights, pool, device)


def _rebuilt(source: Source, reference: Source) -> bool:
    """Tell whether a checkpoint says that it is of another architecture, or has another number of layers."""
    ours, theirs = reference.config, source.config
    kind = str(theirs.get("model_type", ours.get("model_type")))
    tower = kind.startswith(f"{ours.get('model_type')}_")
    other = kind != str(ours.get("model_type")) and not tower
    return other or any(key in theirs and theirs[key] != ours.get(key) for key in COUNTS if not tower)


def in_memory(pool: Pool, entry: Entry, values: Mapping[str, Any], *, seed: int = 0, device: Device = "cpu") -> Fused:
    """Return the fused model of a method of the kind `rebuild`, without a file.

    Raises:
        FusionBenchError: see `mixing.rebuild.rebuild`.
    """
    tensors: dict[str, Tensor] = {}
    made = rebuild(pool, rebuilder_of(entry), values, tensors.__setitem__, seed=seed)
    blueprint = made.blueprint(entry, values, pool)
    if blueprint is not None:
        return MixedModel(tensors, blueprint, family_of(pool), pool.reference, device=device)
    return with_config(entry.name, tensors, made.config, pool, device)


def with_config(
    method: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], pool: Pool, device: Device = "cpu"
) -> Fused:
    """Return tensors as a model of the pool's form, or of another that a configuration describes.

    Args:
        method: by which they were made.
        tensors: by name in the model's files.
        config: of the other form, such as one with more layers; empty where it is the pool's.
        pool: whose reference the model is like, and lies beside the files of.
        device: where it runs.

    Raises:
        ConfigError: where no family serves the architecture.
    """
    if not config:
        return fused_weights(tensors, pool, device)
    source = TensorSource(method, tensors, config)
    source.folder = pool.reference.folder
    return FusedWeights(tensors, family_for(source.config), source, device=device)
