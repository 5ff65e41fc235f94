"""Small models of no known architecture, and what a run lends a method, for methods that look at data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusionbench.errors import NotAdaptable
from fusionbench.methods._context import Context
from fusionbench.run.whole import save_artefact
from fusionbench.training import Loop
from fusionbench.weights.headers import TensorSpec


@dataclass
class Toy:
    """A family of one module."""

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


@dataclass
class Sides:
    """A task on random points, told apart by its seed; it never gives labels away."""

    name: str
    family: Toy
    seed: int
    version: int = 1
    metrics: tuple[Any, ...] = ()
    adaptable: bool = True

    def batches(
        self, split: str, *, size: int, seed: int | None = None, start: int = 0, limit: int | None = None,
        labels: bool = True,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        assert not labels
        step = start // size
        while True:
            generator = torch.Generator().manual_seed(1000 * self.seed + step)
            yield {"points": torch.randn(size, 3, generator=generator)}
            step += 1

    def bind(self, backbone: Any) -> Any:
        return lambda batch: self.family.features(backbone, batch)

    def objective(self, predict: Any, batch: Mapping[str, Any]) -> Tensor:
        if not self.adaptable:
            raise NotAdaptable("distances have no distribution")
        logs = predict(batch).log_softmax(-1)
        return -(logs.exp() * logs).sum(-1).mean()


@dataclass
class Kept:
    """What a method left."""

    folder: Path
    used: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def context(
        self, family: Toy, evaluate: Callable[..., Mapping[str, float]] = lambda fused: {}, **loop: Any
    ) -> Context:
        return Context(
            seed=0, device=torch.device("cpu"), memory=None, family=family, loop=Loop(self.folder / "training", **loop),
            save=lambda name, tensors, text: save_artefact(self.folder, name, tensors, text), load=lambda name: None,
            evaluate=evaluate, used=lambda how, **what: self.used.update({how: what}), note=self.notes.append,
        )  # fmt: skip
