"""Building a mixture of eight experts holds, beside the result, no more than two experts' worth of what it replaces."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SIZES: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 2,
                         "image_size": 16, "patch_size": 8}  # fmt: skip
EXPERTS = 8
MLP = 4 * (2 * 96 * 2048 + 2048 + 96) * 4
"""Bytes of an expert's MLPs."""
ATTENTION = 4 * 4 * (96 * 96 + 96) * 4
SLACK = 6_000_000
"""What allocators and decompositions of one layer take."""
CHILD = """
import sys, threading, time
from pathlib import Path
from types import SimpleNamespace
import torch
from fusionbench.families import family_for
from fusionbench.methods._routing import build_routed_model
from fusionbench.mixing.assemble import in_memory
from fusionbench.registry import methods
from fusionbench.suites.opening import open_models

torch.set_num_threads(1)
folder, what = Path(sys.argv[1]), sys.argv[2]
pool = open_models({name: folder / name for name in ("base", *(f"e{n}" for n in range(8)))})
family = family_for(pool.reference.config)
family.skeleton(pool.reference.config)
torch.linalg.svd(torch.randn(96, 2048), full_matrices=False)


def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


before, peak, done = anonymous(), 0, threading.Event()


def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.0005)


watcher = threading.Thread(target=watch)
watcher.start()
if what == "smile":
    values = {"top_k": 1, "gate": "delta", "others": "base", "gate_k": 2, "k": 0}
    made = in_memory(pool, methods["smile"], values)
else:
    context = SimpleNamespace(family=family, seed=0, device=torch.device("cpu"))
    made = build_routed_model(pool, context, "wemoe", {"depth": 1, "init": 0.3, "route": "sample"})
made.module
done.set()
watcher.join()
print(max(peak, anonymous()) - before, made.bytes)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import ViTConfig, ViTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = tmp_path_factory.mktemp("experts")
    model = ViTModel(ViTConfig(**SIZES))
    for number, name in enumerate(("base", *(f"e{n}" for n in range(EXPERTS)))):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(place / name)
    return place


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc to read")
@pytest.mark.parametrize(("what", "layers"), [("wemoe", MLP), ("smile", MLP + ATTENTION)])
def test_beside_the_result_no_more_than_two_experts_are_held(what: str, layers: int, folder: Path) -> None:
    found = subprocess.run([sys.executable, "-c", CHILD, str(folder), what], capture_output=True, text=True, check=True)
    taken, result = map(int, found.stdout.split())
    assert result > (1 + EXPERTS) * layers
    assert taken - result < 2 * layers + SLACK, f"{(taken - result) / layers:.1f} experts' worth"
