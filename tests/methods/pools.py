"""Small models on which every method is tried, and a call that fuses them through the engine."""

from typing import Any

import torch
from torch import Tensor

from fusing import fuse
from fusionbench.registry import methods

State = dict[str, Tensor]
STREAM = sorted(name for name in methods if methods[name].kind == "stream")
EXPERTS = {
    "passthrough": (1,),
    "depth_upscaling": (1,),
    "slerp": (2,),
    "nuslerp": (2,),
    "nearswap": (1,),
    "arcee_fusion": (1,),
    "model_stock": (2, 3),
}
"""How many experts a method takes, where not any number."""
FAST: dict[str, dict[str, Any]] = {"wudi": {"steps": 10}, "doge_ta": {"steps": 5}}
"""Parameters that make an iterative method short."""

# Every role, blocks with a depth, a single number, a 1×1 matrix, and nothing at all.
SHAPES = {
    "embed_tokens.weight": (6, 4),
    "layers.0.attn.weight": (4, 4),
    "layers.0.norm.weight": (4,),
    "layers.1.mlp.weight": (5, 4),
    "layers.1.mlp.bias": (5,),
    "conv.weight": (3, 2, 2, 2),
    "one.weight": (1, 1),
    "temperature": (),
    "nothing.weight": (0, 4),
}


def state(seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES, coarse: bool = False) -> State:
    """Tensors from a generator of their own; coarse ones are small multiples of 1/8, so that ties are common."""
    generator = torch.Generator().manual_seed(seed)
    if coarse:
        return {n: torch.randint(-8, 9, shape, generator=generator) / 8 for n, shape in shapes.items()}
    return {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}


def pool(seed: int, count: int, coarse: bool = False, shapes: dict[str, tuple[int, ...]] = SHAPES):
    """A base and experts near it; every expert leaves one of the tensors as it was."""
    base = state(1000 * seed, shapes, coarse)
    experts = {}
    for number in range(1, count + 1):
        delta = state(1000 * seed + number, shapes, coarse)
        still = list(shapes)[(seed + number) % len(shapes)]
        experts[f"e{number}"] = {n: base[n] + (0 if n == still else 0.25) * delta[n] for n in shapes}
    return base, experts


def statistics(name: str, experts: dict[str, State]) -> dict[str, State]:
    """What might have been collected of the experts' data: positive numbers for fisher, Gram matrices for regmean."""
    found: dict[str, State] = {}
    for expert in experts if getattr(methods[name].load(), "collect", None) else ():
        shapes = {n: tuple(tensor.shape) for n, tensor in sorted(experts[expert].items())}
        if name == "regmean":
            shapes = {n: (3 * shape[-1], shape[-1]) for n, shape in shapes.items() if len(shape) == 2}
        drawn = state(int(expert.removeprefix("e")), shapes)
        found[expert] = {n: t.T @ t if name == "regmean" else t.square() for n, t in drawn.items()}
    return found


def fused(name: str, base: State, experts: dict[str, State], values: dict[str, Any] | None = None, **run: Any) -> State:
    given_base = None if methods[name].base == "unused" else base
    collected = statistics(name, experts)
    return fuse(name, given_base, experts, {**FAST.get(name, {}), **(values or {})}, run=run, statistics=collected)


def counts(name: str) -> tuple[int, ...]:
    return EXPERTS.get(name, (1, 2, 3))


def bits(tensors: State) -> dict[str, bytes]:
    return {name: bytes(t.contiguous().view(-1).view(torch.uint8).numpy()) for name, t in sorted(tensors.items())}
