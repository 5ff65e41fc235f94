"""A small model with an MLP in each of two blocks, a family that names them, and a pool of such models."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from toys import Toy

from fusionbench.families.base import LinearSite, MlpParts
from fusionbench.merge import Pool
from fusionbench.parameters import check
from fusionbench.signatures import arguments
from fusionbench.weights.tensors import TensorSource


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 5), nn.Linear(5, 3)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(hidden)))


class Blocks(nn.Module):
    """Logits of two classes, `(examples, 2)`, from points `(examples, 3)`."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"norm": nn.LayerNorm(3), "mlp": Mlp()}) for _ in range(2)])
        self.head = nn.Linear(3, 2)

    def forward(self, points: Tensor) -> Tensor:
        for block in self.blocks:
            points = points + block["mlp"](block["norm"](points))
        return self.head(points)


@dataclass
class BlockFamily(Toy):
    """The family of `Blocks`; its heads have no names of their own."""

    module: type[nn.Module] = Blocks

    def linears(self, module: nn.Module) -> Iterator[LinearSite]:
        for name, site in module.named_modules():
            if isinstance(site, nn.Linear):
                yield LinearSite(name, site)

    def blocks(self, module: nn.Module) -> list[str]:
        return ["blocks.0", "blocks.1"]

    def mlps(self, module: nn.Module) -> list[str]:
        return ["blocks.0.mlp", "blocks.1.mlp"]

    def mlp_parts(self, module: nn.Module) -> MlpParts:
        return MlpParts("up", "down")

    def width(self, config: Mapping[str, Any]) -> int:
        return 2


def called(method: Callable[..., Any], pool: Pool, tasks: Any, context: Any, **values: Any) -> Any:
    """Call a method with some of its parameters, as a recipe names them."""
    entry: Any = method.entry  # type: ignore[attr-defined]
    return method(pool, tasks, context, **arguments(method, check(entry.name, entry.parameters, values)))


def known(monkeypatch: Any, family: Toy) -> None:
    """Let a toy's models be run by its family."""
    find: Callable[[Pool], Toy] = lambda pool: family  # noqa: E731
    for place in ("mixing.sites", "mixing.rebuild", "mixing.assemble"):
        monkeypatch.setattr(f"fusionbench.{place}.family_of", find)


def pool_of(count: int = 2) -> Pool:
    torch.manual_seed(0)
    models = [Blocks() for _ in range(count + 1)]
    sources = [TensorSource(f"m{i}", model.state_dict(), {"model_type": "toy"}) for i, model in enumerate(models)]
    experts = {f"e{i}": source for i, source in enumerate(sources[1:])}
    return Pool(sources[0], experts, tasks={name: name for name in experts})
