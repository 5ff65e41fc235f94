"""What adapting holds in memory, in a process of its own: a model, its gradients, and the deltas only where asked."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

WIDTH, LAYERS, EXPERTS = 800, 8, 8
CHILD = """
import re, sys
from pathlib import Path
import torch
from toys import Toy
from fusionbench.merge import Pool
from fusionbench.methods._deltas import MergedModule
from fusionbench.weights.sources import open_source

folder, storage = Path(sys.argv[1]), sys.argv[2]

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))

    def forward(self, given):
        for layer in self.layers:
            given = layer(given)
        return given

def status(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

sources = {path.name: open_source(path) for path in sorted(folder.iterdir())}
torch.nn.Linear(8, 8)(torch.randn(2, 8)).sum().backward()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
merged = MergedModule(Pool(sources.pop("base"), sources), Toy(Net), storage=storage)
for _ in range(2):
    merged.put(torch.full((EXPERTS, LAYERS), 0.1))
    merged.module(torch.randn(2, WIDTH)).sum().backward()
    merged.gradient(LAYERS)
    merged.clear()
print((status("VmHWM") - before) / (4 * WIDTH * WIDTH * LAYERS))
"""
HEAD = f"WIDTH, LAYERS, EXPERTS = {WIDTH}, {LAYERS}, {EXPERTS}"
# Model and gradients are 2 models, the deltas 4 in bfloat16 and none on disk, what is in between a tensor or two; what
# the allocator and mapped files keep comes to one more. Another copy of the model, or wider deltas, would go beyond.
MOST = {"bfloat16": 8.2, "disk": 3.6}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    for name in ["base", *(f"e{number}" for number in range(EXPERTS))]:
        (folder / name).mkdir()
        layers = {f"layers.{n}.weight": rng.random((WIDTH, WIDTH), dtype=np.float32) for n in range(LAYERS)}
        save_file(layers, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text('{"model_type": "toy"}')
    return folder


@pytest.mark.parametrize("storage", MOST)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a while is Linux's to tell")
def test_the_peak_is_model_gradients_and_the_deltas_where_they_lie(storage: str, models: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", HEAD + CHILD, str(models), storage],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) < MOST[storage]
