"""Small classifiers, their tasks and a context, for methods that look at data before they merge."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_inputs import GOLDEN
from safetensors.torch import load_file
from torch import Tensor, nn

from fusionbench.families.base import LinearSite
from fusionbench.methods._context import Context
from fusionbench.run.whole import load_artefact, save_artefact
from fusionbench.training import Loop
from fusionbench.weights.headers import TensorSpec


class Softmax(nn.Module):
    """Logits x·Wᵀ."""

    def __init__(self, width: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.map = nn.Linear(width, classes, bias=False)

    def forward(self, points: Tensor) -> Tensor:
        return self.map(points)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, points: Tensor, shift: Tensor) -> Tensor:
        return points + torch.tanh(self.linear(points)) + shift


class Deep(nn.Module):
    """Two residual blocks between a first and a last map, on `(examples, tokens, 3)`; blocks need a second argument."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.norm = nn.LayerNorm(width)
        self.unused = nn.Linear(width, width)

    def forward(self, points: Tensor) -> Tensor:
        hidden = self.first(points)
        for block in self.blocks:
            hidden = block(hidden, shift=points.mean(dim=-1, keepdim=True))
        return self.norm(hidden).sum(dim=1) if hidden.ndim == 3 else self.norm(hidden)


@dataclass
class Toy:
    """A family of one module that names its linear maps and blocks."""

    module: type[nn.Module]
    name: str = "toy"
    version: int = 1
    tower: str = ""
    model_types: tuple[str, ...] = ("toy",)

    def matches(self, config: Mapping[str, Any]) -> bool:
        return True

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        with torch.device("meta"):
            return self.module().eval()

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        return {name: name for name in specs}

    def collate(self, examples: Sequence[Mapping[str, Any]], processor: Any = None) -> dict[str, Any]:
        return {"points": torch.stack([example["point"] for example in examples])}

    def features(self, backbone: Any, batch: Mapping[str, Any]) -> Tensor:
        return backbone(batch["points"])

    def token_mask(self, batch: Mapping[str, Any]) -> Tensor | None:
        return batch.get("mask")

    def linears(self, module: nn.Module) -> Iterator[LinearSite]:
        for name, site in module.named_modules():
            if isinstance(site, nn.Linear):
                yield LinearSite(name, site)

    def blocks(self, module: nn.Module) -> list[str]:
        return [f"blocks.{number}" for number in range(2)]

    def mlps(self, module: nn.Module) -> list[str]:
        raise NotImplementedError

    def mlp_parts(self, module: nn.Module) -> Any:
        raise NotImplementedError

    def width(self, config: Mapping[str, Any]) -> int:
        return 3


@dataclass
class Points:
    """A task of fixed points, read in their order whatever the seed."""

    name: str
    family: Toy
    columns: dict[str, Tensor]
    version: int = 1
    metrics: tuple[Any, ...] = ()
    asked: list[bool] = field(default_factory=list)

    def size(self, split: str) -> int:
        return len(self.columns["points"])

    def batches(self, split: str, *, size: int, seed: int | None = None, start: int = 0, limit: int | None = None,
                labels: bool = True) -> Iterator[dict[str, Any]]:  # fmt: skip
        self.asked.append(labels)
        count = self.size(split)
        first = start
        while True:
            at = torch.arange(first, first + size) % count
            yield {key: value[at] for key, value in self.columns.items() if labels or key != "labels"}
            first += size

    def bind(self, backbone: Any) -> Any:
        return lambda batch: self.family.features(backbone, batch)

    def loss(self, predict: Any, batch: Mapping[str, Any]) -> Tensor:
        return nn.functional.cross_entropy(predict(batch), batch["labels"])


@dataclass
class Kept:
    """What a method leaves."""

    folder: Path
    used: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def context(self, family: Any, seed: int = 0) -> Context:
        return Context(
            seed=seed, device=torch.device("cpu"), memory=None, family=family, loop=Loop(self.folder / "training"),
            save=lambda name, tensors, text: save_artefact(self.folder, name, tensors, text),
            load=lambda name: load_artefact(self.folder, name),
            evaluate=lambda fused: {}, used=lambda how, **what: self.used.update({how: what}), note=self.notes.append,
        )  # fmt: skip


def double(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return tensor.detach().double().numpy()


def golden_inputs(method: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]:
    """The experts of fusion-bench's golden merges, and what was collected of each."""
    parts = ({e: _golden(f"inputs/{part}/{e}/") for e in "abc"} for part in ("weights", method))
    return next(parts), next(parts)


def golden_result(method: str, setting: object) -> dict[str, Tensor]:
    """What fusion-bench merged."""
    return _golden(f"{method}/{setting}/result/")


def _golden(prefix: str) -> dict[str, Tensor]:
    found = load_file(GOLDEN / "fusion_bench_statistics.safetensors")
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
