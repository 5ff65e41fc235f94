"""How much the directions that experts write to overlap: subspaces of the deltas of matrices. No torch here."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import ConfigError
from fusionbench.merge import Pool, Progress, silent
from fusionbench.report.analysis.deltas import DeltaTensor, delta_tensors
from fusionbench.report.analysis.square import Square
from fusionbench.weights.roles import inputs_last, role


@dataclass(frozen=True, slots=True)
class Overlap:
    """Overlap of the experts' leading input directions.

    Attributes:
        rank: directions of each expert that were compared.
        matrices: how many matrices were looked at.
        mean: over the matrices, `(experts, experts)`.
        chance: what random directions would give, the mean of rank / width.
    """

    rank: int
    matrices: int
    mean: Square
    chance: float


def overlap(pool: Pool, rank: int = 8, progress: Progress = silent) -> Overlap:
    """Return ‖VᵢᵀVⱼ‖²_F / k for the k leading right singular vectors of each pair of deltas, averaged over matrices.

    1 where two experts read the same k input directions, about k / width where their directions are random. Matrices
    whose smaller side is less than k are left out, as are embeddings and heads.

    Args:
        pool: a base and its experts, opened.
        rank: k.
        progress: told how many matrices are done.

    Raises:
        ConfigError: where k < 1, or no matrix is large enough.
    """
    if rank < 1:
        raise ConfigError(f"rank={rank}: the overlap is of at least one direction.")
    config = pool.reference.config
    chosen = [
        tensor for tensor in delta_tensors(pool) if role(tensor.spec) == "matrix" and min(tensor.spec.shape) >= rank
    ]
    if not chosen:
        raise ConfigError(f"rank={rank}: no matrix of the fused part has that many directions. Choose a smaller one.")
    names = tuple(pool.experts)
    total, chance = np.zeros((len(names), len(names))), 0.0
    for done, tensor in enumerate(chosen, start=1):
        bases = _directions(tensor, rank, transposed=not inputs_last(tensor.spec, config))
        total += _overlaps(bases)
        chance += rank / bases.shape[1]
        progress("singular vectors", done, len(chosen))
    chance /= len(chosen)
    title = f"Overlap of the {rank} leading input directions of {len(chosen)} matrices (by chance {chance:.2f})"
    return Overlap(rank, len(chosen), Square(title, names, names, total / len(chosen), 0.0, 1.0), chance)


def _overlaps(bases: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ‖VᵢᵀVⱼ‖²_F / k from orthonormal columns, `(experts, width, k)`; 0 for an expert without a delta."""
    products = np.einsum("iwa,jwb->ijab", bases, bases)
    found: NDArray[np.float64] = np.square(products).sum(axis=(2, 3)) / bases.shape[2]
    return found


def _directions(tensor: DeltaTensor, rank: int, *, transposed: bool) -> NDArray[np.float64]:
    """Return each delta's leading right singular vectors, `(experts, width, rank)`; zeros where the delta is 0."""
    rows, columns = tensor.spec.shape
    deltas = tensor.read(0, tensor.spec.size).reshape(-1, rows, columns)
    if transposed:
        deltas = deltas.swapaxes(1, 2)
    width = deltas.shape[2]
    found = np.zeros((len(deltas), width, rank))
    for out, delta in zip(found, deltas, strict=True):
        if delta.any():
            out[:] = _leading(delta, rank)
    return found


def _leading(delta: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """Return the leading right singular vectors, `(width, rank)`, through the smaller of the two Gram matrices."""
    tall = delta.shape[0] >= delta.shape[1]
    _, vectors = np.linalg.eigh(delta.T @ delta if tall else delta @ delta.T)
    leading = vectors[:, : -rank - 1 : -1]
    if tall:
        return leading
    orthonormal, _ = np.linalg.qr(delta.T @ leading)
    return np.asarray(orthonormal)
