"""Cosine similarity, norms and sign conflicts of task vectors in one pass over the files. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionbench.merge import Pool, Progress, silent
from fusionbench.report.analysis.deltas import DeltaTensor, blocks_of, delta_tensors
from fusionbench.report.analysis.square import Square


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the experts' deltas τᵢ = θᵢ − θ₀ lie to one another.

    Attributes:
        experts: their names.
        grams: `τᵢ·τⱼ` summed over each block of the model, float64; keys as in `blocks_of`.
        opposed: for each pair, entries that both changed, in opposite directions.
        both: for each pair, entries that both changed.
        changed: entries that each expert changed.
        kept: for each block, Σⱼ |Σᵢ τᵢⱼ|: the length (in the 1-norm) that the sum of the deltas keeps.
        spent: for each block, Σᵢⱼ |τᵢⱼ|: the lengths of the deltas together.
        parameters: entries of the fused part.
    """

    experts: tuple[str, ...]
    grams: Mapping[str, NDArray[np.float64]]
    opposed: NDArray[np.int64]
    both: NDArray[np.int64]
    changed: NDArray[np.int64]
    kept: Mapping[str, float]
    spent: Mapping[str, float]
    parameters: int

    def cosines(self, block: str | None = None) -> Square:
        """Return cos(τᵢ, τⱼ), of one block or of the whole fused part; NaN for an expert without a delta."""
        gram = np.sum(list(self.grams.values()), axis=0) if block is None else self.grams[block]
        lengths = np.sqrt(np.diag(gram))
        with np.errstate(invalid="ignore", divide="ignore"):
            values = gram / np.outer(lengths, lengths)
        where = "" if block is None else f", block {block}"
        return Square(f"Cosine similarity of task vectors{where}", self.experts, self.experts, values, -1.0, 1.0)

    def norms(self) -> Square:
        """Return ‖τᵢ‖₂ of each block (rows) and expert (columns), and of all together in the last row."""
        per_block = np.sqrt([np.diag(gram) for gram in self.grams.values()])
        whole = np.sqrt(np.sum([np.diag(gram) for gram in self.grams.values()], axis=0))
        rows = (*self.grams, "all")
        return Square("Length of task vectors, 2-norm", rows, self.experts, np.vstack([per_block, whole]), 0.0)

    def conflicts(self) -> Square:
        """Return, for each pair, the share of the entries both changed that they moved in opposite directions."""
        with np.errstate(invalid="ignore", divide="ignore"):
            values = self.opposed / self.both
        return Square("Entries moved in opposite directions", self.experts, self.experts, values, 0.0, 1.0, True)

    def cancelled(self) -> Square:
        """Return, for each block, the share of all change that the sum of the deltas cancels, 1 − Σ|Σᵢτᵢ| / ΣΣᵢ|τᵢ|."""
        names = (*self.spent, "all")
        spent = np.array([*self.spent.values(), sum(self.spent.values())])
        kept = np.array([*self.kept.values(), sum(self.kept.values())])
        with np.errstate(invalid="ignore", divide="ignore"):
            values = (1 - kept / spent)[:, None]
        return Square("Change that the sum of the deltas cancels", names, ("share",), values, 0.0, 1.0, True)


def geometry(pool: Pool, progress: Progress = silent) -> Geometry:
    """Return how the deltas of a pool's experts lie to one another; every file is read once, a block at a time.

    Sums are taken in float64 over blocks of 2²⁰ entries, in order. The cosines are those of arXiv:2406.03280, figure 5
    (all tensors of the fused part as one vector).

    Args:
        pool: a base and its experts, opened.
        progress: told how many entries are read.

    Raises:
        ConfigError: where the pool has no base.
        IncompatibleModels: where the models do not fit.
    """
    tensors = delta_tensors(pool)
    names, total = tuple(pool.experts), sum(tensor.spec.size for tensor in tensors)
    sums = _Sums(len(names))
    grams, kept, spent, done = {}, {}, {}, 0
    for block, members in blocks_of(tensors).items():
        before_kept, before_spent = sums.kept, sums.spent
        gram = np.zeros((len(names), len(names)))
        for tensor in members:
            gram += sums.add(tensor)
            done += tensor.spec.size
            progress("reading deltas", done, total)
        grams[block], kept[block], spent[block] = gram, sums.kept - before_kept, sums.spent - before_spent
    return Geometry(names, grams, sums.opposed, sums.both, sums.changed, kept, spent, total)


class _Sums:
    """What is summed over all entries."""

    def __init__(self, experts: int) -> None:
        self.opposed = np.zeros((experts, experts), np.int64)
        self.both = np.zeros((experts, experts), np.int64)
        self.changed = np.zeros(experts, np.int64)
        self.kept = self.spent = 0.0

    def add(self, tensor: DeltaTensor) -> NDArray[np.float64]:
        """Add a tensor's deltas; return their inner products."""
        gram = np.zeros_like(self.both, np.float64)
        for deltas in tensor.blocks():
            gram += deltas @ deltas.T
            up, down = ((deltas > 0).astype(np.float32), (deltas < 0).astype(np.float32))
            # Counts of up to 2²⁰ are exact in float32.
            crossed = (up @ down.T).astype(np.int64)
            self.opposed += crossed + crossed.T
            moved = up + down
            self.both += (moved @ moved.T).astype(np.int64)
            self.changed += moved.sum(axis=1).astype(np.int64)
            self.kept += float(np.abs(deltas.sum(axis=0)).sum())
            self.spent += float(np.abs(deltas).sum())
        return gram
