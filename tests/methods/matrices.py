"""Small models and the outside references' cases, as torch tensors, for the tests of the spectral methods."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import worked_examples
from golden_cases import GoldenCase, golden_cases
from torch import Tensor

from fusing import fuse
from fusionbench.registry import methods
from fusionbench.weights.plan import Site

SHAPES = {"wide.weight": (6, 9), "tall.weight": (11, 4), "square.weight": (8, 8), "tall.bias": (11,)}


def tensor(values: Any) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def examples(method: str) -> list[Any]:
    return [example for example in worked_examples.EXAMPLES if example.method == method]


def by_hand(function: Callable[..., Tensor], example: Any, **parameters: Any) -> Tensor:
    """What a method makes of a worked example."""
    given = parameters or example.params
    return function(tensor(example.base), [tensor(expert) for expert in example.experts], **given)


def draw(
    count: int = 3, shapes: Mapping[str, Sequence[int]] = SHAPES, seed: int = 0
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """A random base, and `count` experts near it that have something in common."""
    random = np.random.default_rng(seed)
    base = {name: tensor(random.normal(0, 1, shape)) for name, shape in shapes.items()}
    common = {name: random.normal(0, 0.1, shape) for name, shape in shapes.items()}
    experts = {
        letter: {name: base[name] + tensor(common[name] + random.normal(0, 0.1, shapes[name])) for name in shapes}
        for letter in "abcdefgh"[:count]
    }
    return base, experts


def arrays(model: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: value.double().numpy() for name, value in model.items()}


def place(name: str = "linear.weight", **fields: Any) -> Site:
    standard: dict[str, Any] = {
        "shape": (2, 2), "start": 0, "role": "matrix", "inputs_last": True, "stack": "", "depth": None, "depths": 1,
        "experts": ("a", "b"), "seed": 0,
    }  # fmt: skip
    return Site(name, **{**standard, **fields})


def golden(method: str, translate: Callable[[dict[str, Any]], dict[str, Any]], prefix: str = "") -> list[Any]:
    """Each case of fusion_bench's, as (name, its result, ours as the paper has it, ours as fusion_bench has it)."""

    def part(model: Mapping[str, Tensor], case: GoldenCase) -> dict[str, Tensor]:
        names = [name for name in case.expected if model[name.removeprefix(prefix)].is_floating_point()]
        return {name: model[name.removeprefix(prefix)] for name in names}

    found = []
    for case in golden_cases("fusion_bench", method):
        assert case.base is not None
        base, experts = part(case.base, case), {name: part(model, case) for name, model in case.experts.items()}
        own, compat = translate(case.parameters), (methods[method].compat or {}).get("fusion_bench", {})
        paper = fuse(method, base, experts, own)
        found.append((case.name, case.expected, paper, fuse(method, base, experts, {**compat, **own})))
    return found


def gaps(one: Mapping[str, Tensor], other: Mapping[str, Tensor], tolerance: float = 2e-6) -> set[str]:
    """Names of the tensors in which two models differ by more than the tolerance."""
    return {name for name in one if not (one[name] - other[name]).abs().max() <= tolerance}
