"""Models for the engine's tests: coarse numbers of every shape, so that many magnitudes are tied."""

import torch

SHAPES = {"embed": (20, 9), "a.weight": (11, 13), "a.bias": (11,), "one": (1,), "scale": (), "none": (0, 5), "b": (57,)}


def model(seed: int, dtype: torch.dtype = torch.float32, size: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Coarse numbers, so that many magnitudes are tied.
    state = {n: (torch.randint(-9, 10, s, generator=generator) / 8 * size).to(dtype) for n, s in SHAPES.items()}
    return {**state, "count": torch.tensor([seed, 7]), "mask": torch.tensor([seed % 2 == 0, True])}


def models(count: int = 3, dtype: torch.dtype = torch.float32):
    base = model(0, dtype)
    experts = {}
    for i in range(1, count + 1):
        moved = model(i, dtype, 0.25)
        experts[f"e{i}"] = {n: base[n] + t if t.is_floating_point() else t for n, t in moved.items()}
    return base, experts


def bits(state) -> dict[str, bytes]:
    return {name: bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy()) for name, tensor in state.items()}
