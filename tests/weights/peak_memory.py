"""Answer, line by line, what budget a merge asks for and what it then takes at its peak; run by `test_workspace.py`."""

import gc
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import scipy.linalg  # noqa: F401  what is loaded at first use counts for nobody
import torch

from fusing import plan_for
from fusionbench.errors import ConfigError
from fusionbench.parameters import check
from fusionbench.registry import methods
from fusionbench.weights import engine

STEPS = {"steps": 1}


class Nowhere:
    """A sink that keeps nothing."""

    def write(self, name, content, start=0):
        pass


def resident(word):
    return int(Path("/proc/self/status").read_text().split(f"{word}:")[1].split()[0]) * 1024


def model(seed, shape):
    generator = torch.Generator().manual_seed(seed)
    # Two tensors: a first pass may still hold one while it reads the next.
    size = 0.02 if seed else 1.0
    return {f"layers.{i}.w.weight": torch.randn(shape, generator=generator) * size for i in range(2)}


def answer(method, parameters, shape, experts):
    entry = methods[method]
    given = {**parameters, **(STEPS if any(p.name == "steps" for p in entry.parameters) else {})}
    # Blocks of single entries are as large as they come, if in the shape of one row.
    shape = (1, 1 << 20) if entry.unit == "element" else shape
    base, states = model(0, shape), {f"e{i}": model(i + 1, shape) for i in range(experts)}
    collected = torch.rand(shape) if method == "fisher" else torch.eye(shape[1]) + 0.01 if method == "regmean" else None
    known = None if collected is None else {name: dict.fromkeys(base, collected) for name in states}
    plan = plan_for(method, None if entry.base == "unused" else base, states, given, statistics=known)
    values = check(method, entry.parameters, given)
    refusal = ""
    try:
        engine.run_plan(plan, entry, Nowhere(), values=values, threads=2, memory=1)
    except ConfigError as error:
        refusal = str(error)
    least = int(refusal.rstrip(".").rpartition(" ")[2].replace(",", ""))
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    engine.run_plan(plan, entry, Nowhere(), values=values, threads=2, memory=least)
    return {"refusal": refusal, "peak": resident("VmHWM") - before}


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Kernels have budgets, and tests, of their own.
    engine.kernel_for = lambda *_: None
    for line in sys.stdin:
        asked = json.loads(line)
        shape = tuple(asked["shape"])
        answer(asked["method"], asked["parameters"], (40, 40), asked["experts"])
        sys.stdout.write(json.dumps(answer(asked["method"], asked["parameters"], shape, asked["experts"])) + "\n")
        sys.stdout.flush()
