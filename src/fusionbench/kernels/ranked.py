"""Drop small entries of each row more often than large ones, then sum or elect a sign: DELLA in one pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusionbench.errors import ConfigError
from fusionbench.kernels import Block, Kernel, Place
from fusionbench.kernels._compile import compiled
from fusionbench.kernels.consensus import add_merged
from fusionbench.kernels.counting import MAGNITUDE
from fusionbench.kernels.streams import stream_key
from fusionbench.kernels.thin import thin_by
from fusionbench.kernels.tiles import row_width

Keys = np.ndarray[Any, np.dtype[np.uint64]]


def check_probabilities(density: float, epsilon: float) -> None:
    """Refuse probabilities outside (0, 1].

    Raises:
        ConfigError: where density ± epsilon leaves it.
    """
    if not (density - epsilon > 0 and density + epsilon <= 1):
        raise ConfigError(
            f"method.density={density} ± method.epsilon={epsilon}: entries would be kept with probabilities from "
            f"{density - epsilon:g} to {density + epsilon:g}; they must lie in (0, 1]. "
            f"Set epsilon below {min(density, 1 - density):g}."
        )


@compiled
def spread_by_rank(order: Keys, least: np.float32, step: np.float32, out: Block) -> None:
    """Fill `out` `(rows, width)` with `least` + rank · `step`.

    The rank of an entry is its column's place in `order`, whose lower 32 bits are columns from the least to the
    largest magnitude.
    """
    for row in range(order.shape[0]):
        columns, found = order[row], out[row]
        for rank in range(columns.shape[0]):
            found[columns[rank] & np.uint64(0xFFFFFFFF)] = least + np.float32(rank) * step


def keep_probabilities(deltas: Block, density: float, epsilon: float) -> Block:
    """Return q = (ρ−ε) + 2·ε·r/(c−1) of each entry of `(rows, width)`, as `methods.della` has it."""
    check_probabilities(density, epsilon)
    width = deltas.shape[1]
    out = np.full(deltas.shape, density, np.float32)
    if width > 1:
        keys = (deltas.view(np.uint32) & np.uint32(MAGNITUDE)).astype(np.uint64)
        keys <<= np.uint64(32)
        # Of equal magnitudes the first column ranks lower, as in a stable sort.
        keys |= np.arange(width, dtype=np.uint64)
        keys.sort(axis=1)
        spread_by_rank(keys, np.float32(density - epsilon), np.float32(2 * epsilon / (width - 1)), out)
    return out


def _apply(
    out: Block, base: Block, inputs: Block, place: Place, prepared: None, *,
    site: Any, density: Sequence[float], epsilon: Sequence[float], weights: Sequence[float], scale: float,
    combine: str, normalize: bool, rescale: str, zero_sign: str,
) -> None:  # fmt: skip
    """Fill `out` with θ₀ + λ times the sum, or the consensus, of the thinned deltas."""
    width = row_width(site.shape)
    for row, share, apart, expert in zip(inputs, density, epsilon, site.experts, strict=True):
        if share < 1:
            probabilities = keep_probabilities(row.reshape(-1, width), share, apart).reshape(-1)
            key = np.uint64(stream_key(site.seed, site.name, expert))
            thin_by(row, key, np.uint64(place[1]), probabilities, rescale == "inverse")
    add_merged(out, base, inputs, weights, scale, combine=combine, normalize=normalize, zero_sign=zero_sign)


def _serves(parameters: dict[str, Any]) -> bool:
    return bool(parameters["rescale"] != "norm")


RANKED = Kernel(_apply, "deltas", serves=_serves, compiled=True, sited=True, rows=True)
