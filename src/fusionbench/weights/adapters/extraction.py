"""A LoRA adapter out of two checkpoints: the best low-rank approximation of each matrix's change."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusionbench.errors import ConfigError, IncompatibleModels, NotFinite
from fusionbench.kernels.tiles import BLOCK
from fusionbench.weights.adapters.configuration import CONFIG_NAME
from fusionbench.weights.adapters.edits import Array, widened
from fusionbench.weights.adapters.matching import PREFIX, is_one_of_two
from fusionbench.weights.adapters.own_space import name_adapter_file
from fusionbench.weights.checks import fit
from fusionbench.weights.headers import Source, TensorSpec, as_buffer
from fusionbench.weights.roles import inputs_last, role
from fusionbench.weights.writer import CheckpointWriter


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was written, and how much of the change is in it.

    Attributes:
        folder: the adapter's.
        kept: by matrix, the share of ‖Δ‖² (Frobenius) that its low rank holds, in [0, 1]; 1 is all.
    """

    folder: Path
    kept: Mapping[str, float]


class _Parts(NamedTuple):
    """Names of changed tensors: those approximated, those saved whole, and by both the name in the adapter."""

    matrices: dict[str, int]
    whole: dict[str, str]
    modules: list[str]


def extract_lora(
    base: Source, model: Source, rank: int, folder: Path, *, finish: Callable[[Path], None] | None = None
) -> Extracted:
    """Write the difference of two checkpoints as an adapter that PEFT loads.

    The change Δ of each matrix becomes B·A with B = U_r·√σ and A = √σ⁻¹·U_rᵀ·Δ, where U_r holds the first r left
    singular vectors: no matrix of rank r is nearer to Δ (Eckart and Young, 1936). Embeddings, convolutions, norms and
    biases that changed are saved whole. One matrix is in memory at a time.

    Args:
        base: what the adapter will be loaded on.
        model: what it makes of it, as near as the rank allows.
        rank: r, at least 1; a matrix with a smaller side has that.
        folder: must not exist.
        finish: writes more files into it before it takes its name.

    Raises:
        ConfigError: where `rank` is less than 1, or no matrix changed.
        IncompatibleModels: where the checkpoints do not fit, or a changed tensor cannot be part of an adapter.
        NotFinite: where a changed matrix holds NaN or Inf.
        OutputError: where `folder` cannot be written.
    """
    if rank < 1:
        raise ConfigError(f"rank should be at least 1, it is {rank}.")
    (own,) = fit(base, {model.label: model}).names
    parts = _parts(base, model, own, rank)
    specs = list(_specs(base, model, own, parts))
    kept = {}

    def complete(place: Path) -> None:
        name_adapter_file(place)
        (place / CONFIG_NAME).write_text(json.dumps(_config(base, parts, rank), indent=2) + "\n")
        if finish is not None:
            finish(place)

    with CheckpointWriter(folder, specs, metadata={}, shard_bytes=2**62, finish=complete) as writer:
        for name, size in parts.matrices.items():
            delta = _delta(base, model, name, own[name])
            a, b, kept[name] = _factors(delta, size)
            for factor, values in (("A", a), ("B", b)):
                writer.write(_factor(name, factor), as_buffer(np.ascontiguousarray(values, np.float32)))
        for name, saved in parts.whole.items():
            writer.write(saved, model.read(own[name]))
    return Extracted(folder, kept)


def _parts(base: Source, model: Source, own: Mapping[str, str], rank: int) -> _Parts:
    changed = [name for name, spec in base.specs.items() if spec.is_float and _differ(base, model, name, own[name])]
    matrices = {name: min(rank, *base.specs[name].shape) for name in changed if _is_matrix(base.specs[name])}
    if not matrices:
        raise ConfigError(f"No matrix of {model.label} differs from {base.label}: there is nothing to make a LoRA of.")
    targets = {_module(name) for name in matrices}
    others = [name for name in changed if name not in matrices]
    saved = [module for module in dict.fromkeys(map(_module, others)) if module not in targets]
    whole = {name: f"{PREFIX}{_module(name)}.base_layer.{_leaf(name)}" for name in others if _module(name) in targets}
    problems = [f"  {name} is tied to the other embedding" for name in changed if is_one_of_two(base, name)]
    for module in saved:
        inside = [name for name in base.specs if name.startswith(f"{module}.")]
        if not module or any(_module(name) != module for name in inside):
            problems.append(
                f"  {module or 'the model'} holds a parameter beside its modules, which PEFT cannot save alone"
            )
        whole |= {name: PREFIX + name for name in inside}
    if problems:
        head = f"The change from {base.label} to {model.label} is more than an adapter can hold:"
        raise IncompatibleModels("\n".join([head, *problems, "Keep the whole model."]))
    return _Parts(matrices, whole, saved)


def _is_matrix(spec: TensorSpec) -> bool:
    return len(spec.shape) == 2 and spec.name.endswith(".weight") and role(spec) in ("matrix", "head")


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _factor(name: str, factor: str) -> str:
    return f"{PREFIX}{_module(name)}.lora_{factor}.weight"


def _differ(base: Source, model: Source, name: str, own: str) -> bool:
    ours, theirs = base.specs[name], model.specs[own]
    return any(
        not np.array_equal(widened(base, ours, "F64", start, stop), widened(model, theirs, "F64", start, stop))
        for start, stop in ((at, min(at + BLOCK, ours.size)) for at in range(0, ours.size, BLOCK))
    )


def _specs(base: Source, model: Source, own: Mapping[str, str], parts: _Parts) -> Iterator[TensorSpec]:
    for name, rank in parts.matrices.items():
        outputs, inputs = _plain(base, name)
        yield TensorSpec(_factor(name, "A"), "F32", (rank, inputs))
        yield TensorSpec(_factor(name, "B"), "F32", (outputs, rank))
    for name, saved in parts.whole.items():
        yield model.specs[own[name]]._replace(name=saved)


def _plain(base: Source, name: str) -> tuple[int, int]:
    """Return a matrix's outputs and inputs."""
    rows, columns = base.specs[name].shape
    return (rows, columns) if inputs_last(base.specs[name], base.config) else (columns, rows)


def _delta(base: Source, model: Source, name: str, own: str) -> Array:
    """Return model − base as `(out, in)` in float64."""
    spec = base.specs[name]
    flat = widened(model, model.specs[own], "F64")
    flat -= widened(base, spec, "F64")
    if not np.isfinite(flat).all():
        raise NotFinite(f"{name} of {model.label} or {base.label} holds NaN or Inf: nothing can be extracted from it.")
    delta = flat.reshape(spec.shape)
    return delta if inputs_last(spec, base.config) else delta.T


def _factors(delta: Array, rank: int) -> tuple[Array, Array, float]:
    """Return A, B and the share of ‖Δ‖² in B·A.

    The singular vectors are those of the smaller Gram matrix: a fraction of the work of all of them, and what its
    squared condition loses is 10⁻⁸ of the largest, below float32.
    """
    from scipy.linalg import eigh

    tall = delta.shape[0] > delta.shape[1]
    side = delta.T if tall else delta
    count = len(side)
    _, vectors = eigh(side @ side.T, subset_by_index=(count - rank, count - 1))
    left = vectors[:, ::-1]
    right = left.T @ side
    sigma = np.linalg.norm(right, axis=1)
    root = np.sqrt(np.where(sigma > 0, sigma, 1.0))
    left, right = left * root, right / root[:, None]
    kept = float(np.square(sigma).sum() / np.square(delta).sum())
    return (left.T, right.T, kept) if tall else (right, left, kept)


def _config(base: Source, parts: _Parts, rank: int) -> dict[str, object]:
    """Return the configuration; α = r everywhere, so that the factor on B·A is 1."""
    smaller = {f"^{re.escape(_module(name))}": size for name, size in parts.matrices.items() if size != rank}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base.label,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "rank_pattern": smaller,
        "alpha_pattern": smaller,
        "target_modules": [_module(name) for name in parts.matrices],
        "modules_to_save": parts.modules or None,
        "bias": "lora_only" if any(".base_layer." in saved for saved in parts.whole.values()) else "none",
        "fan_in_fan_out": any(not inputs_last(base.specs[name], base.config) for name in parts.matrices),
        "inference_mode": True,
    }
