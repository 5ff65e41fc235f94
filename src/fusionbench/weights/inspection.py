"""What checkpoints are, whether they fit, and what a merge of them would cost: from headers alone. No torch here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusionbench.errors import FusionBenchError, IncompatibleModels
from fusionbench.kernels.tiles import BLOCK, TILE, WIDENED, widen
from fusionbench.weights.checks import fit
from fusionbench.weights.headers import Source, entries

BYTES_PER_SECOND = 2e9
"""What two cores of 2024 read, combine and write; `benchmarks/merge.py` measures it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One checkpoint, from its headers and its configuration."""

    label: str
    architecture: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: Mapping[str, int]
    largest: str
    tied: bool


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found: facts of each model, why the others do not fit the first, notes, and the cost of a merge."""

    facts: tuple[Facts, ...]
    misfits: tuple[str, ...]
    notes: tuple[str, ...]
    cost: Mapping[str, float]


def inspect(sources: Sequence[Source], *, tower: str = "") -> Inspection:
    """Look at models from their headers; the first is the base that the others are held against."""
    base, others = sources[0], {source.label: source for source in sources[1:]}
    misfits: list[str] = []
    notes: tuple[str, ...] = ()
    if others:
        try:
            notes = fit(base, others, tower=tower, glimpse=True).notes
        except IncompatibleModels as error:
            misfits = str(error).splitlines()
            notes = tuple(getattr(error, "__notes__", ()))
    return Inspection(tuple(facts(source) for source in sources), tuple(misfits), notes, cost(sources))


def facts(source: Source) -> Facts:
    """Return what a checkpoint's headers and configuration say of it."""
    specs = source.specs.values()
    dtypes: dict[str, int] = {}
    for spec in specs:
        dtypes[spec.dtype] = dtypes.get(spec.dtype, 0) + spec.size
    largest = max(specs, key=lambda spec: spec.nbytes, default=None)
    named = source.config.get("architectures") or [source.config.get("model_type", "unknown")]
    return Facts(
        source.label,
        str(named[0]),
        len(source.specs),
        sum(spec.size for spec in specs),
        sum(spec.nbytes for spec in specs),
        dtypes,
        f"{largest.name} {'×'.join(map(str, largest.shape))}" if largest else "none",
        bool(source.config.get("tie_word_embeddings", False)),
    )


def cost(sources: Sequence[Source]) -> dict[str, float]:
    """Return bytes read and written, seconds and peak memory of one pass of an element-wise merge of all sources."""
    read = sum(spec.nbytes for source in sources for spec in source.specs.values())
    written = sum(spec.nbytes for spec in sources[0].specs.values())
    memory = 2 * ((len(sources) + 3) * TILE * 4 + 2 * BLOCK * 4) + 60e6
    return {"read": read, "written": written, "seconds": (read + written) / BYTES_PER_SECOND, "memory": memory}


def distances(base: Source, expert: Source, *, tower: str = "") -> dict[str, float]:
    """Return the length of the delta, of the base, and their ratio: streamed, sums in float64.

    Raises:
        FusionBenchError: where they do not fit, or hold kinds of number that cannot be widened.
    """
    names = fit(base, {expert.label: expert}, tower=tower).names[0]
    delta = length = 0.0
    for canonical, own in names.items():
        spec = base.specs[canonical]
        if not spec.is_float:
            continue
        theirs = expert.specs[own]
        if not {spec.dtype, theirs.dtype} <= WIDENED:
            raise FusionBenchError(
                f"{canonical} is {spec.dtype} and {theirs.dtype}: norms are of {sorted(WIDENED)} only."
            )
        for start in range(0, spec.size, BLOCK):
            stop = min(spec.size, start + BLOCK)
            ours = _numbers(base, spec, start, stop)
            delta += float(np.sum(np.square(_numbers(expert, theirs, start, stop) - ours, dtype=np.float64)))
            length += float(np.sum(np.square(ours, dtype=np.float64)))
    return {"delta": math.sqrt(delta), "base": math.sqrt(length), "ratio": math.sqrt(delta / length) if length else 0.0}


def _numbers(source: Source, spec: Any, start: int, stop: int) -> Any:
    values = np.empty(stop - start, np.float32)
    widen(entries(source, spec, start, stop), spec.dtype, values)
    return values
