"""Make golden/fusion_bench_statistics.safetensors: fusion-bench 0.2.33's merges by given Fisher information and Grams.

Run it with an interpreter that has fusion-bench; the output is the same byte for byte each time. Tensor names are
``<case>/<part>/<expert or result>/<parameter>``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from fusion_bench.method.fisher_merging.fisher_merging import merging_with_fisher_weights
from fusion_bench.method.regmean.regmean import merging_with_regmean_weights
from safetensors.torch import save_file
from torch import Tensor

SHAPES = {"map.weight": (4, 5), "map.bias": (4,), "norm.weight": (5,)}
EXPERTS = ("a", "b", "c")


def main() -> None:
    """Draw experts and statistics, merge them, write everything."""
    generator = torch.Generator().manual_seed(0)
    experts = [{n: torch.randn(s, generator=generator) for n, s in SHAPES.items()} for _ in EXPERTS]
    information = [{n: torch.randn(s, generator=generator).square() * 1e-6 for n, s in SHAPES.items()} for _ in EXPERTS]
    inputs = [torch.randn(12, 5, generator=generator) for _ in EXPERTS]
    grams = [x.T @ x / len(x) for x in inputs]
    columns = {name: [expert[name] for expert in experts] for name in SHAPES}
    found: dict[str, Tensor] = {}
    for normalize in (True, False):
        merged = merging_with_fisher_weights(columns, information, torch.ones(3) / 3, normalize, 1e-6)
        found |= {f"fisher/{normalize}/result/{name}": tensor for name, tensor in merged.items()}
    for factor in (0.95, 0.6):
        merged = merging_with_regmean_weights(columns, [{"map": gram} for gram in grams], factor, True)
        found |= {f"regmean/{factor}/result/{name}": tensor for name, tensor in merged.items()}
    for expert, weights, known, gram in zip(EXPERTS, experts, information, grams, strict=True):
        found |= {f"inputs/weights/{expert}/{name}": tensor for name, tensor in weights.items()}
        found |= {f"inputs/fisher/{expert}/{name}": tensor for name, tensor in known.items()}
        found[f"inputs/regmean/{expert}/map.weight"] = gram
    place = Path(__file__).parent / "golden" / "fusion_bench_statistics.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, place)


if __name__ == "__main__":
    main()
