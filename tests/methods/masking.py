"""Pools of state dicts and what a run lends, for methods that give one masked model a task."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matrices import tensor
from torch import Tensor, nn
from toys import Kept, Toy
from worked_examples import V5_BASE, V5_EXPERTS

from fusionbench.merge import Pool
from fusionbench.methods._masked import MaskedModels, unpack
from fusionbench.weights.tensors import TensorSource

Model = Mapping[str, Tensor]
CONFIG = {"model_type": "toy"}
FAMILY = Toy(nn.Identity)
V5: tuple[Model, dict[str, Model]] = (
    {"w": tensor(V5_BASE)},
    {name: {"w": tensor(expert)} for name, expert in zip("ab", V5_EXPERTS, strict=True)},
)


def pool_of(base: Model, experts: Mapping[str, Model]) -> Pool:
    """A pool whose experts were trained on tasks of their own names."""
    sources = {name: TensorSource(name, model, CONFIG) for name, model in experts.items()}
    return Pool(TensorSource("base", base, CONFIG), sources, tasks={name: name for name in experts})


def run(
    method: Callable[..., Any], base: Model, experts: Mapping[str, Model], folder: Path, *,
    tasks: Mapping[str, Any] | None = None, evaluate: Callable[..., Any] = lambda fused: {}, **values: Any,
) -> tuple[MaskedModels, Kept]:  # fmt: skip
    kept = Kept(folder)
    context = kept.context(FAMILY, evaluate)
    fused = method(pool_of(base, experts), tasks or {}, context, **values)
    assert isinstance(fused, MaskedModels)
    return fused, kept


def mask_of(fused: MaskedModels, expert: str, name: str) -> np.ndarray[Any, Any]:
    return unpack(fused.masks.bits[expert][name], fused.masks.unified[name].shape).numpy()


def plain(model: Model, names: Any) -> dict[str, Tensor]:
    return {name: model[name].to(torch.float32) for name in names}
