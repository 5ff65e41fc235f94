"""Time merges of models with very many tiny tensors, as mixtures of experts have them: what counts is the cost of one.

python benchmarks/many_tensors.py --record docs/results/many-tensors.json
"""

import argparse
import json
import os
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import measure
from record import write_record

METHODS = {
    "task_arithmetic": ["method.scale=0.3"],
    "ties": ["method.density=0.2"],
    "ties of each tensor": ["method.density=0.2", "method.scope=tensor"],
}
ENTRIES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=50_000)
    parser.add_argument("--experts", type=int, default=2)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        models = [_make(Path(scratch) / f"model{i}", options.tensors, i) for i in range(options.experts + 1)]
        for label, parameters in METHODS.items():
            out = Path(scratch) / "-".join(label.split())
            command = [str(Path(sys.executable).with_name("fusionbench")), "merge", f"base={models[0]}"]
            command += [f"experts.e{i}={model}" for i, model in enumerate(models[1:])]
            command += [f"method={label.split()[0]}", *parameters, "--out", str(out)]
            figures = measure(command, log=Path(scratch) / "log")
            rows.append({"method": label, **figures._asdict()})
            print(
                f"{label:20} {figures.wall:6.2f} s wall {figures.cpu:6.2f} s cpu {figures.anonymous:6.0f} MB",
                flush=True,
            )
    if options.record:
        write_record(
            options.record, {"load": load, "tensors": options.tensors, "experts": options.experts, "rows": rows}
        )


def _make(folder: Path, tensors: int, seed: int) -> Path:
    """Write a model of so many vectors of bfloat16 numbers."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    places = {
        f"layers.{i}.weight": {
            "dtype": "BF16",
            "shape": [ENTRIES],
            "data_offsets": [2 * ENTRIES * i, 2 * ENTRIES * (i + 1)],
        }
        for i in range(tensors)
    }
    header = json.dumps(places).encode()
    numbers = np.random.default_rng(seed).standard_normal(tensors * ENTRIES, np.float32).view(np.uint32) >> 16
    content = struct.pack("<Q", len(header)) + header + numbers.astype(np.uint16).tobytes()
    (folder / "model.safetensors").write_bytes(content)
    return folder


if __name__ == "__main__":
    main()
