"""Simulate a queue of many short runs that one process hands to many workers: how long it takes, how busy they are.

Runs last on average so many seconds (log-normal, sigma 0.5); one in a hundred is lost somewhere on its way and done
again; the starting process spends a fixed time on each, handing it over and reading its report. Nothing else is shared.
Before, the processor time that this takes here is measured on a toy merge: with what a shared disk adds to it, that is
the fixed time.

    python benchmarks/dispatch.py --record docs/results/dispatch.json
"""

import argparse
import heapq
import json
import random
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from record import write_record
from safetensors.numpy import save_file

from fusionbench.config import Recipe
from fusionbench.sweep import run_all
from fusionbench.sweep.launched import job_of, outcome_of

SIGMA = 0.5
LOST = 0.01


def main() -> None:
    def numbers(text: str) -> list[float]:
        return [float(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--workers", type=numbers, default=[100, 1_000, 10_000])
    parser.add_argument("--seconds", type=numbers, default=[5, 60], help="that a run lasts on average")
    parser.add_argument("--dispatch", type=numbers, default=[0.001, 0.005, 0.02], help="seconds of the starter, a run")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    cost = cost_of_a_run()
    print(", ".join(f"{name} {value:.3g}" for name, value in cost.items()), flush=True)
    rows: list[dict[str, Any]] = []
    for workers in map(int, options.workers):
        for seconds in options.seconds:
            for dispatch in options.dispatch:
                took, busy = simulate(workers, options.runs, seconds, dispatch)
                rows.append(
                    {"workers": workers, "seconds": seconds, "dispatch": dispatch, "hours": took / 3600, "busy": busy}
                )
                print(f"{workers:7,} workers, {seconds:3.0f} s a run, {dispatch * 1000:3.0f} ms a dispatch: "
                      f"{took / 3600:5.2f} h, {busy:6.1%} busy", flush=True)  # fmt: skip
    if options.record:
        write_record(options.record, {"runs": options.runs, "sigma": SIGMA, "lost": LOST, "cost": cost, "rows": rows})


def cost_of_a_run(count: int = 200, done: int = 20) -> dict[str, float]:
    """Return milliseconds of the starter's processor for a run, the bytes of its job, and what its folder takes."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for model in ("base", "a", "b"):
            (scratch / model).mkdir()
            save_file({"w": np.full((8, 8), len(model), np.float32)}, scratch / model / "model.safetensors")
        start = [f"base={scratch / 'base'}", *(f"experts.{e}={scratch / e}" for e in "ab"), "method=task_arithmetic"]
        began = process_time()
        recipes = [Recipe.load(None, [*start, f"method.scale={number / count}"]) for number in range(count)]
        read = process_time() - began
        jobs = [json.dumps(job_of(recipe, scratch / "runs", force=False)) for recipe in recipes]
        handed = process_time() - began - read
        outcomes = list(run_all(recipes[:done], scratch / "runs"))
        folders = [outcome.result.folder for outcome in outcomes if outcome.result is not None]
        began = process_time()
        for recipe, folder in zip(recipes, folders, strict=False):
            outcome_of(recipe, scratch / "runs", {"value": {"folder": folder.name, "reused": False}})
        files = [path for path in folders[0].rglob("*") if path.suffix != ".safetensors"]
        return {
            "recipe_ms": 1000 * read / count, "job_ms": 1000 * handed / count,
            "report_ms": 1000 * (process_time() - began) / len(folders), "job_bytes": max(map(len, jobs)),
            "files": len(files), "folder_bytes": sum(path.stat().st_size for path in files if path.is_file()),
        }  # fmt: skip


def simulate(workers: int, runs: int, seconds: float, dispatch: float, seed: int = 0) -> tuple[float, float]:
    """Return the seconds until the last run is done, and the share of the workers' time in which they work."""
    chance = random.Random(seed)
    free = [0.0] * workers
    now = end = worked = 0.0
    left = runs
    while left:
        now = max(now + dispatch, heapq.heappop(free))
        lasts = seconds * chance.lognormvariate(-SIGMA * SIGMA / 2, SIGMA)
        if chance.random() < LOST:
            lasts *= chance.random()
        else:
            left -= 1
        worked += lasts
        end = max(end, now + lasts)
        heapq.heappush(free, now + lasts)
    return end, worked / (end * workers)


if __name__ == "__main__":
    main()
