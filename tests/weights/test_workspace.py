"""What each method says that it holds is what it holds: the smallest budget that is accepted is kept."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fusionbench.registry import methods
from fusionbench.weights.engine import COPYING

CHILD = Path(__file__).with_name("peak_memory.py")
STREAM = [name for name in methods if methods[name].kind == "stream" and not (methods[name].data or {}).get("stacks")]
TWO = ("slerp", "nuslerp")
ONE = ("arcee_fusion", "nearswap", "expo", "passthrough")
FURTHER = [
    ("iso_c", {"rank": "full"}),
    ("iso_cts", {"rank": "full"}),
    ("tsv_m", {"rank": "full"}),
    ("wudi", {"solver": "closed_form"}),
    ("pcb", {"agreement": "pairwise"}),
    ("ties", {"trim": "random"}),
    ("dare", {"rescale": "norm"}),
    ("knots", {"joined": "outputs"}),
    ("knots", {"inner": {"name": "task_arithmetic"}}),
    ("lines", {"inner": {"name": "ties"}}),
    ("consensus", {"inner": {"name": "ties"}}),
    ("model_stock", {"granularity": "row"}),
    ("nuslerp", {"mode": "row"}),
]
CASES = [
    *((name, {}, (500, 500)) for name in STREAM),
    *((name, parameters, (500, 500)) for name, parameters in FURTHER),
    *((name, {}, shape) for name in ("wudi", "knots", "regmean", "iso_cts") for shape in ((200, 1000), (1000, 200))),
]
SLACK, FLOOR = 1.1, 3_000_000
"""What the allocator, the interpreter and histograms hold beside tensors."""


@pytest.fixture(scope="module")
def child():
    """A process that is warm: what it holds afterwards is what methods hold."""
    # Large blocks go back to the system as soon as they are freed, so that the peak is that of what is in use.
    quiet = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **quiet},
    ) as process:  # fmt: skip
        yield process
        process.stdin.close()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are told by Linux alone")
@pytest.mark.parametrize(("method", "parameters", "shape"), CASES, ids=str)
def test_the_smallest_budget_that_a_method_accepts_is_kept(child, method, parameters, shape):
    experts = 1 if method in ONE else 2 if method in TWO else 5
    asked = {"method": method, "parameters": parameters, "shape": shape, "experts": experts}
    child.stdin.write(json.dumps(asked) + "\n")
    child.stdin.flush()
    answer = json.loads(child.stdout.readline())
    least = int(re.search(r"needs at least ([\d,]+)\.$", answer["refusal"])[1].replace(",", ""))
    assert answer["peak"] <= min(least, SLACK * (least - COPYING) + FLOOR)


def test_a_method_that_says_nothing_holds_three_copies():
    assert methods["task_arithmetic"].workspace == (3.0, 0.0, 0.0, 0.0, "")
    assert methods["wudi"].workspace.side == "inputs"
