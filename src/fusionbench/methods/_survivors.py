"""What of each task vector survives TIES's first two steps: the large entries whose sign is the elected one."""

from collections.abc import Container, Iterator

import numpy as np
import torch

from fusionbench.kernels import State, Visit
from fusionbench.kernels.counting import trim_below
from fusionbench.kernels.selection import thresholds
from fusionbench.methods._deltas import MergedModule


def keep_survivors(merged: MergedModule, density: float) -> None:
    """Zero, in place, every entry that is trimmed or has a minority sign; each task keeps what is its own.

    The trimming is that of the whole model, exactly ⌊density·size⌋ entries an expert (arXiv:2310.02575, §3.3, on
    arXiv:2306.01708, Algorithm 1).
    """

    def scan(visit: Visit, *, among: Container[str] | None = None) -> Iterator[State]:
        for name in (name for name in merged.names if among is None or name in among):
            state: State = {}
            visit(state, (name, 0), merged.deltas[name].float().cpu().numpy())
            yield state

    cuts = thresholds(scan, {name: {"density": density} for name in merged.names}, scope="model")
    for name in merged.names:
        deltas = np.array(merged.deltas[name].float().cpu().numpy())
        if cuts is not None:
            targets, quota = cuts.at((name, 0))
            trim_below(deltas.view(np.uint32), targets, quota)
        kept = torch.from_numpy(deltas)
        elected = kept.sum(dim=0).sign()
        merged.deltas[name].copy_(torch.where(kept * elected > 0, kept, 0.0))
