"""Make the checkpoints that all golden files are computed on: a base and the experts a, b, c.

The set is tiny but odd on purpose: a 0-d scalar, a one-entry bias, a 1xN matrix, a 4-D convolution, BatchNorm with its
statistics, a tied head, a tensor no expert changed, some that only some changed, entries whose deltas cancel exactly.
Written in float32 and in bfloat16. Runs under any interpreter with numpy, torch and safetensors:
``python golden_inputs.py`` rewrites both input files.
"""

# ruff: noqa: T201

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
MODELS = ("base", "a", "b", "c")
SEED = 20240601
SHAPES: dict[str, tuple[int, ...]] = {
    "embed.weight": (12, 8),
    "linear.weight": (7, 5),
    "linear.bias": (7,),
    "square.weight": (16, 16),
    "row.weight": (1, 6),
    "one.bias": (1,),
    "scale": (),
    "conv.weight": (4, 3, 3, 3),
    "norm.weight": (5,),
    "frozen.weight": (3, 4),
    "bn.weight": (4,),
    "bn.bias": (4,),
    "bn.running_mean": (4,),
    "bn.running_var": (4,),
    "cancel.weight": (2, 4),
}
TIED = {"head.weight": "embed.weight"}
COUNTER = "bn.num_batches_tracked"
STATISTICS = ("bn.running_mean", "bn.running_var", COUNTER)
UNCHANGED = {"frozen.weight": "abc", "bn.weight": "a", "norm.weight": "ab"}  # which experts keep the base's values
# The first two entries of cancel.weight: in binary fractions, so that the deltas sum to exactly 0 in any precision.
CANCEL = {"base": (1.0, -2.0), "a": (1.25, -2.5), "b": (0.75, -1.6875), "c": (1.0, -1.8125)}
# Entries that are ordinary parameters: no statistics, no second name of a tied tensor.
PLAIN = tuple(name for name in SHAPES if name not in STATISTICS)


def arrays() -> dict[str, dict[str, np.ndarray]]:
    """Draw all models in float64 from one seeded generator, in the order of SHAPES."""
    random = np.random.default_rng(SEED)
    models: dict[str, dict[str, np.ndarray]] = {model: {} for model in MODELS}
    for name, shape in SHAPES.items():
        origin = random.normal(0.0, 0.5, shape)
        if name in ("norm.weight", "bn.weight"):
            origin = origin * 0.2 + 1
        if name == "bn.running_var":
            origin = np.abs(origin) + 0.5
        shared = random.normal(0.0, 0.05, shape)
        models["base"][name] = origin
        for expert, size in zip("abc", (0.05, 0.08, 0.03), strict=True):
            delta = shared * size / 0.05 + random.normal(0.0, size, shape)
            changed = np.asarray(origin + delta)
            if name == "bn.running_var":
                changed = np.abs(changed) + 0.05
            models[expert][name] = origin if expert in UNCHANGED.get(name, "") else changed
    for model, values in CANCEL.items():
        models[model]["cancel.weight"][0, :2] = values
    return models


def inputs(dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
    """Return the models as state dicts: tied names repeated, the integer counter added."""
    models = {}
    for model, tensors in arrays().items():
        state = {name: torch.tensor(array, dtype=torch.float32).to(dtype) for name, array in tensors.items()}
        state |= {alias: state[name].clone() for alias, name in TIED.items()}
        state[COUNTER] = torch.tensor(100, dtype=torch.int64)
        models[model] = state
    return models


def read_inputs(precision: str) -> dict[str, dict[str, Tensor]]:
    """Read ``inputs_<precision>.safetensors`` back as model -> name -> tensor."""
    models: dict[str, dict[str, Tensor]] = {model: {} for model in MODELS}
    for key, tensor in load_file(GOLDEN / f"inputs_{precision}.safetensors").items():
        model, name = key.split("/", 1)
        models[model][name] = tensor
    return models


def save_golden(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose bytes depend on nothing but its content: safetensors shuffles its metadata."""
    save_file(dict(tensors), path, metadata=dict(metadata))
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size]) | {"__metadata__": dict(metadata)}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


def write_inputs() -> None:
    """Write both input files and print their hashes."""
    GOLDEN.mkdir(exist_ok=True)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        flat = {f"{model}/{name}": tensor for model, state in inputs(dtype).items() for name, tensor in state.items()}
        path = GOLDEN / f"inputs_{precision}.safetensors"
        save_golden(path, flat, {"seed": str(SEED), "generator": "numpy default_rng"})
        print(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()[:16])


if __name__ == "__main__":
    write_inputs()
