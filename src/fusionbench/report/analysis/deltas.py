"""Deltas of a pool's experts, a block at a time: what analyses of checkpoints read, of any size. No torch here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import ConfigError, IncompatibleModels
from fusionbench.kernels.tiles import BLOCK, WIDENED, widen
from fusionbench.merge import Pool
from fusionbench.weights.checks import fit
from fusionbench.weights.headers import Source, TensorSpec, entries
from fusionbench.weights.roles import Place, is_statistic, places


@dataclass(frozen=True, slots=True)
class DeltaTensor:
    """One tensor of the fused part: where it stands, and how to read the experts' deltas of it.

    Attributes:
        spec: the base's.
        place: stack and block.
        own: each expert's tensor, with the checkpoint that holds it.
        base: the checkpoint that holds the base's.
    """

    spec: TensorSpec
    place: Place
    own: tuple[tuple[Source, TensorSpec], ...]
    base: Source

    def blocks(self) -> Iterator[NDArray[np.float64]]:
        """Yield the deltas, `(experts, up to 2²⁰ entries)`, in order."""
        for start in range(0, self.spec.size, BLOCK):
            yield self.read(start, min(self.spec.size, start + BLOCK))

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """Return the deltas of the flat entries `start` to `stop`, `(experts, stop - start)`."""
        ours = _numbers(self.base, self.spec, start, stop)
        deltas = np.empty((len(self.own), stop - start))
        for row, (source, spec) in zip(deltas, self.own, strict=True):
            np.subtract(_numbers(source, spec, start, stop), ours, out=row)
        return deltas


def delta_tensors(pool: Pool) -> list[DeltaTensor]:
    """Return the tensors of the fused part that experts can differ in: floating, and no BatchNorm statistics.

    Raises:
        ConfigError: where the pool has no base.
        IncompatibleModels: where the models do not fit, or hold kinds of number that cannot be read here.
    """
    if pool.base is None:
        raise ConfigError("An analysis of deltas needs a base: name it with base=REF.")
    found = fit(pool.base, pool.experts, tower=pool.tower)
    where = places(pool.base.specs)
    tensors = []
    for name in found.scope:
        spec = pool.base.specs[name]
        if not spec.is_float or is_statistic(name):
            continue
        own = tuple(
            (expert, expert.specs[names[name]])
            for expert, names in zip(pool.experts.values(), found.names, strict=True)
        )
        kinds = {spec.dtype, *(theirs.dtype for _, theirs in own)}
        if not kinds <= WIDENED:
            raise IncompatibleModels(
                f"{name} holds {', '.join(sorted(kinds))}; deltas are read of {', '.join(sorted(WIDENED))} only."
            )
        tensors.append(DeltaTensor(spec, where[name], own, pool.base))
    return tensors


def block_name(place: Place) -> str:
    """Return what a block of the model is called in tables: "3", "encoder 3", or "outside" for what is in no block."""
    if place.depth is None:
        return "outside"
    return f"{place.stack} {place.depth}".strip()


def blocks_of(tensors: list[DeltaTensor]) -> Mapping[str, list[DeltaTensor]]:
    """Return the tensors of each block, in order of depth, those outside all blocks first."""
    grouped: dict[str, list[DeltaTensor]] = {}
    for tensor in sorted(
        tensors, key=lambda tensor: (tensor.place.stack, -1 if tensor.place.depth is None else tensor.place.depth)
    ):
        grouped.setdefault(block_name(tensor.place), []).append(tensor)
    return grouped


def _numbers(source: Source, spec: TensorSpec, start: int, stop: int) -> NDArray[np.float32]:
    values = np.empty(stop - start, np.float32)
    widen(entries(source, spec, start, stop), spec.dtype, values)
    return values
