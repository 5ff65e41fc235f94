"""Merge more than memory holds: eight experts of 16 GB, within 4 GB, beside what `dd` takes for the same bytes.

The checkpoints are made: one number in 16 is random, the others are holes in the files, which are read as zeros. So
nine models of 16 GB take 9 GB of disk, and the output 16 GB more. TIES keeps a twentieth, so that its cut lies among
the random numbers. Beside it: `dd` that reads all inputs, and `dd` that copies one model and waits for the disk.

    python benchmarks/beyond_memory.py --folder /tmp --record docs/results/beyond-memory.json
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import measure
from record import write_record
from scaling import PROGRAM, TENSOR, forecast, make, recipe

RANDOM = 16
METHODS = {"task_arithmetic": [], "ties": ["method.density=0.05"]}
LIMIT = 4000
"""Megabytes that the largest process may hold at its peak, mapped files included."""


def main() -> None:
    options = _options()
    tensors = max(1, round(options.gigabytes * 1e9 / TENSOR))
    size = tensors * TENSOR
    needed = size * (1 + (options.experts + 1) / RANDOM)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        scratch = Path(name)
        if needed > shutil.disk_usage(scratch).free:
            sys.exit(f"It needs {needed / 1e9:,.1f} GB of disk in {options.folder}.")
        folders = [scratch / f"m{number}" for number in range(options.experts + 1)]
        for number, folder in enumerate(folders):
            make(folder, number, tensors, RANDOM)
        floor = _floor(folders, scratch, size)
        rows = [_row(method, folders, scratch, size, options) for method in options.methods.split(",")]
    if options.record:
        about = {"gigabytes": size / 1e9, "experts": options.experts, "limit": LIMIT, "load": os.getloadavg()[0]}
        write_record(options.record, {**about, "memory": options.memory, "floor": floor, "rows": rows})
    if any(row["resident"] > LIMIT for row in rows):
        sys.exit(f"A process held more than {LIMIT} MB.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--gigabytes", type=float, default=16)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--memory", default="2GB", help="runtime.memory of each merge")
    parser.add_argument("--workers", type=int, default=0, help="processes that make the output's files; 0: one process")
    parser.add_argument("--record", type=Path)
    return parser.parse_args()


def _row(method: str, folders: list[Path], scratch: Path, size: int, options: argparse.Namespace) -> dict[str, Any]:
    out, log = scratch / "out", scratch / "log"
    asked = [*recipe(folders, method), *METHODS[method], f"runtime.memory={options.memory}"]
    expected = forecast(asked, out)
    if options.workers:
        asked += ["launcher=processes", f"launcher.workers={options.workers}", f"output.shard_bytes={size // 16}"]
    figures = measure([*PROGRAM, "merge", *asked, "--out", str(out)], log=log)
    shutil.rmtree(out)
    passes = int(next(iter(re.findall(r"\((\d+) pass", log.read_text()))))
    gigabytes = size / 1e9
    row = {
        "method": method, "passes": passes, **figures._asdict(), "forecast": expected,
        "error": expected / figures.wall - 1,
        "throughput": (passes * len(folders) + 1) * gigabytes / figures.wall,
    }  # fmt: skip
    print(
        f"{method:16} {figures.wall:7.1f} s, {passes} passes: {row['throughput']:5.2f} GB/s read and written; at most "
        f"{figures.anonymous:,.0f} MB beside mapped files, {figures.resident:,.0f} MB with them; expected "
        f"{expected:.1f} s ({row['error']:+.0%})",
        flush=True,
    )
    return row


def _floor(folders: list[Path], scratch: Path, size: int) -> dict[str, float]:
    """Return the gigabytes a second of `dd` that reads all inputs, and of `dd` that writes as much as the output."""
    started = time.perf_counter()
    for folder in folders:
        for file in sorted(folder.glob("*.safetensors")):
            _dd(file, Path(os.devnull))
    read = len(folders) * size / 1e9 / (time.perf_counter() - started)
    started = time.perf_counter()
    for file in sorted(folders[0].glob("*.safetensors")):
        _dd(file, scratch / f"copy-{file.name}", "conv=fsync")
    written = size / 1e9 / (time.perf_counter() - started)
    for copy in scratch.glob("copy-*"):
        copy.unlink()
    print(f"dd               reads {read:5.2f} GB/s, copies one model at {written:5.2f} GB/s", flush=True)
    return {"read": read, "copied": written}


def _dd(source: Path, target: Path, *more: str) -> None:
    subprocess.run(["dd", f"if={source}", f"of={target}", "bs=4M", "status=none", *more], check=True)


if __name__ == "__main__":
    main()
