"""How time and memory of a merge grow with the size of the models and with the number of experts.

The checkpoints are made: tensors of 2^24 bfloat16 numbers, a quarter of each random, the rest a hole in the file, so
that 16 GB take 4 GB of disk. Each merge is a whole process; anonymous memory is what mapped files do not account for.
Before each, `fusionbench plan` says what it will take: its error is printed and recorded beside the time.

    python benchmarks/scaling.py --record docs/results/scaling.json --plot docs/images/scaling.png
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measure import measure
from record import write_record

WIDTH = 4096
TENSOR = 2 * WIDTH * WIDTH
SHARD = 2_000_000_000
RANDOM = 4
"""One in so many entries of a tensor is a random number, the others are zero and a hole in the file."""
METHODS = {"task_arithmetic": ["method.scale=0.3"], "ties": ["method.density=0.2"]}


def main() -> None:
    options = _options()
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows else []
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        for gigabytes in options.sizes:
            rows += _measured(Path(scratch), gigabytes, 2, options)
        for count in options.experts:
            rows += _measured(Path(scratch), options.size, count, options)
    rows = sorted({_order(row): row for row in rows}.values(), key=_order)
    if options.record:
        write_record(options.record, {"load": os.getloadavg()[0], "rows": rows})
    if options.plot:
        plot(rows, options.plot, options.time)


def _options() -> argparse.Namespace:
    def numbers(text: str) -> list[float]:
        return [float(part) for part in text.split(",") if part]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--sizes", type=numbers, default=[0.1, 0.5, 1, 4, 16], help="gigabytes of a model, two experts")
    parser.add_argument("--experts", type=lambda text: [int(n) for n in numbers(text)], default=[2, 4, 8, 16])
    parser.add_argument("--size", type=float, default=0.5, help="gigabytes of a model where experts are counted")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rows", type=Path, help="JSON lines that an earlier run printed, to be joined with these")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--time", choices=["wall", "cpu"], default="wall", help="what is drawn; cpu on a busy machine")
    return parser.parse_args()


def _order(row: dict[str, Any]) -> tuple[str, int, float]:
    return row["method"], row["experts"], row["gigabytes"]


def _measured(scratch: Path, gigabytes: float, experts: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    tensors = max(1, round(gigabytes * 1e9 / TENSOR))
    needed = tensors * TENSOR * (1 + (experts + 1) / RANDOM)
    if needed > shutil.disk_usage(scratch).free:
        sys.exit(f"{gigabytes} GB with {experts} experts needs {needed:,.0f} bytes of disk.")
    folders = [scratch / f"m{number}" for number in range(experts + 1)]
    for number, folder in enumerate(folders):
        make(folder, number, tensors)
    rows = []
    for method in options.methods.split(","):
        out = scratch / "out"
        asked = recipe(folders, method)
        expected = forecast(asked, out)
        figures = measure([*PROGRAM, "merge", *asked, "--out", str(out)], log=scratch / "log")
        shutil.rmtree(out)
        row = {"method": method, "experts": experts, "gigabytes": tensors * TENSOR / 1e9, **figures._asdict()}
        row |= {"forecast": expected, "error": expected / figures.wall - 1}
        rows.append(row)
        print(json.dumps(row), flush=True)
    for folder in folders:
        shutil.rmtree(folder)
    return rows


PROGRAM = [str(Path(sys.executable).with_name("fusionbench"))]


def recipe(folders: list[Path], method: str) -> list[str]:
    """Return the overrides of a merge of the first folder and its experts."""
    experts = [f"experts.e{i}={folder}" for i, folder in enumerate(folders[1:])]
    return [f"base={folders[0]}", *experts, f"method={method}", *METHODS[method]]


def forecast(asked: list[str], out: Path) -> float:
    """Return the seconds that `fusionbench plan` expects of a merge."""
    said = subprocess.run([*PROGRAM, "plan", *asked, "--out", str(out), "--json"], capture_output=True, check=True)
    (found,) = json.loads(said.stdout).values()
    return float(next(iter(found["devices"].values()))["seconds"])


def make(folder: Path, number: int, tensors: int, random: int = RANDOM) -> None:
    """Write a model of so many tensors, `number` 0 for the base; one entry in `random` is no hole."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    values = rng.standard_normal(TENSOR // 2 // random, dtype=np.float32) * 0.02
    if number:
        values += np.random.default_rng(number).standard_normal(len(values), dtype=np.float32) * 0.002
    block = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    each = SHARD // TENSOR
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(tensors)]
    shards = [names[first : first + each] for first in range(0, tensors, each)]
    files = {}
    for index, held in enumerate(shards):
        file = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        _write(folder / file, held, block)
        files |= dict.fromkeys(held, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (folder / "config.json").write_text(json.dumps({"model_type": "synthetic"}))


def _write(path: Path, names: list[str], block: bytes) -> None:
    table = {
        name: {"dtype": "BF16", "shape": [WIDTH, WIDTH], "data_offsets": [i * TENSOR, (i + 1) * TENSOR]}
        for i, name in enumerate(names)
    }
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for i in range(len(names)):
            file.seek(8 + len(header) + i * TENSOR)
            file.write(block)
        file.truncate(8 + len(header) + len(names) * TENSOR)


def plot(rows: list[dict[str, Any]], path: Path, time: str) -> None:
    """Draw time and memory over gigabytes, and time over experts."""
    import matplotlib.pyplot as plt

    figure, (size, memory, count) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for method in dict.fromkeys(row["method"] for row in rows):
        by_size = [row for row in rows if row["method"] == method and row["experts"] == 2]
        several = sorted({row["gigabytes"] for row in rows if row["experts"] > 2})
        by_count = [row for row in rows if row["method"] == method and row["gigabytes"] in several]
        size.plot([r["gigabytes"] for r in by_size], [r[time] for r in by_size], "o-", label=method)
        memory.plot([r["gigabytes"] for r in by_size], [r["anonymous"] for r in by_size], "o-", label=method)
        count.plot([r["experts"] for r in by_count], [r[time] for r in by_count], "o-", label=method)
    memory.axhline(500, color="grey", linestyle="--", linewidth=1)
    for axis, words in (
        (size, ("gigabytes of a model (2 experts)", f"seconds of the whole process ({time})")),
        (memory, ("gigabytes of a model (2 experts)", "peak anonymous memory, MB")),
        (count, ("experts", f"seconds of the whole process ({time})")),
    ):
        axis.set(xlabel=words[0], ylabel=words[1])
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    size.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
