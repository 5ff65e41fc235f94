"""Small modules whose units may change places, and what a run lends the methods that match them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from toys import Kept, Toy

from fusionbench.families import Permutation
from fusionbench.merge import Pool
from fusionbench.weights.tensors import TensorSource

CONFIG = {"model_type": "toy"}
WIDTH, HIDDEN = 4, 6


class Stream(nn.Module):
    """A residual stream with LayerNorm and two heads of attention-like mixing, between a first and a last map."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)
        self.heads = nn.Linear(WIDTH, 4)
        self.out = nn.Linear(4, WIDTH)
        self.last = nn.Linear(WIDTH, 2)

    def forward(self, points: Tensor) -> Tensor:
        hidden = self.first(points)
        hidden = hidden + self.down(torch.relu(self.up(self.norm(hidden))))
        # Within a head of two entries, the softmax tells places apart; heads are alike.
        heads = self.heads(hidden).unflatten(-1, (2, 2)).softmax(-1) * torch.tensor([1.0, 2.0], dtype=hidden.dtype)
        return self.last(hidden + self.out(heads.flatten(-2)))


class Convolved(nn.Module):
    """A convolution with batch normalisation, and a map that reads its channels flattened, four cells each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 5, 2)
        self.bn = nn.BatchNorm1d(5)
        self.last = nn.Linear(10, 2)

    def forward(self, points: Tensor) -> Tensor:
        channels = torch.relu(self.bn(self.conv(points.unsqueeze(1))))
        return self.last(channels.flatten(1))


def both(*names: str) -> tuple[tuple[str, int], ...]:
    return tuple((f"{name}.{kind}", 0) for name in names for kind in ("weight", "bias"))


STREAM = (
    Permutation("hidden", HIDDEN, "down", both("up"), (("down.weight", 1),)),
    Permutation("heads", 2, "out", both("heads"), (("out.weight", 1),)),
    Permutation("stream", WIDTH, "last", both("first", "norm", "down", "out"),
                (("up.weight", 1), ("heads.weight", 1), ("last.weight", 1))),
)  # fmt: skip
CHANNELS = (
    Permutation("channels", 5, "bn", (*both("conv", "bn"), ("bn.running_mean", 0), ("bn.running_var", 0)),
                (("last.weight", 1),)),
)  # fmt: skip


@dataclass
class Permuted(Toy):
    """A family that says what may change places."""

    groups: tuple[Permutation, ...] = STREAM

    def permutations(self, config: Mapping[str, Any]) -> tuple[Permutation, ...]:
        return self.groups


@dataclass
class Inputs:
    """A task of random points without labels."""

    name: str = "points"
    count: int = 64
    seed: int = 0

    def size(self, split: str) -> int:
        return self.count

    def batches(self, split: str, *, size: int, limit: int, labels: bool) -> Iterator[dict[str, Tensor]]:
        assert not labels
        points = torch.randn(self.count, 3, generator=torch.Generator().manual_seed(self.seed))[:limit]
        for start in range(0, len(points), size):
            yield {"points": points[start : start + size]}


def model(module: type[nn.Module], seed: int) -> dict[str, Tensor]:
    """Random float tensors of a module, none of them zero or one."""
    generator = torch.Generator().manual_seed(seed)
    state = module().state_dict()
    drawn = {name: torch.randn(t.shape, generator=generator) for name, t in state.items() if t.is_floating_point()}
    return {name: t.abs() + 0.5 if name.endswith("running_var") else t for name, t in drawn.items()} | {
        name: t for name, t in state.items() if not t.is_floating_point()
    }


def pool_of(*models: Mapping[str, Tensor]) -> Pool:
    return Pool(None, {f"m{number}": TensorSource(f"m{number}", m, CONFIG) for number, m in enumerate(models)})


def run(method: Any, family: Permuted, *models: Mapping[str, Tensor], folder: Path, **values: Any) -> tuple[Any, Kept]:
    kept = Kept(folder)
    return method(pool_of(*models), {"points": Inputs()}, kept.context(family), **values), kept
