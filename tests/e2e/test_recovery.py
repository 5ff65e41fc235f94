"""What up-scaling and merging into a mixture lose, some training brings back, on `mini/causal_lm` at its smallest."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
SUITE = ("suite=mini/causal_lm", "suite.size=tiny")
BUDGET = ("recipe.steps=50", "recipe.batch=32", "recipe.learning_rate=2e-3", "recipe.schedule=cosine")
"""A quarter of the steps that the base was pretrained for."""


def losses(folder: Path) -> dict[str, float]:
    tasks = json.loads((folder / "report.json").read_text())["tasks"]
    return {metric: one["value"] for metric, one in tasks["language"].items() if isinstance(one, dict)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "more", "lost"),
    [
        ("depth_upscaling", (), 0.3),
        ("moe_merging", ("recipe.balance=0.01",), 0.5),
        ("moe_upscaling", ("recipe.balance=0.01",), -1e-4),
    ],
)
def test_the_loss_falls_back_to_the_dense_models_within_fifty_steps(
    method: str, more: tuple[str, ...], lost: float, fusionbench: Run, tmp_path: Path
) -> None:
    chosen = ("method.expert=base",) if method == "depth_upscaling" else ()
    for name, extra in (("pretrained", ()), (method, chosen)):
        assert fusionbench("run", *SUITE, f"method={name}", *extra, "--out", tmp_path / name).returncode == 0
    dense, fused = (losses(tmp_path / name)["token_loss"] for name in ("pretrained", method))
    assert fused > dense + lost
    asked = (f"init={tmp_path / method}", *SUITE, "tasks=[language]", *BUDGET, *more)
    found = fusionbench("finetune", *asked, "--out", tmp_path / "out")
    assert found.returncode == 0, found.stderr
    record = json.loads((tmp_path / "out" / "language" / "fusionbench.json").read_text())
    assert record["scores"]["language"]["test"]["token_loss"] < dense
