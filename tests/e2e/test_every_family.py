"""Every family × average, task arithmetic, TIES through the command line, on the smallest build of its suite."""

import json
from pathlib import Path

import pytest

from fusionbench.registry import families

SUITES = {
    "clip": "mini/clip",
    "image_classifier": "mini/image",
    "encoder": "mini/encoder",
    "gpt2": "mini/gpt2",
    "t5": "mini/t5",
    "causal_lm": "mini/causal_lm",
    "scene": "mini/scene",
}
ADAPTERS = {"t5 with adapters": "mini/t5_lora"}
MERGES = ("simple_average", "task_arithmetic", "ties")
WITHOUT = {"open_clip"}
"""Families whose models are the papers' alone."""


def test_every_family_has_a_suite_that_needs_no_network() -> None:
    ours = {name for name in families if families[name].location.startswith("fusionbench.")}
    assert ours - WITHOUT == set(SUITES)


@pytest.mark.slow
@pytest.mark.parametrize("family", [*SUITES, *ADAPTERS])
def test_every_merge_runs_and_lies_between_what_it_is_held_against(family: str, fusionbench, tmp_path: Path) -> None:
    suite = (SUITES | ADAPTERS)[family]
    normalized = {}
    for method in ("pretrained", "individual", "traditional_mtl", *MERGES):
        out = tmp_path / method
        done = fusionbench("run", f"suite={suite}", "suite.size=tiny", f"method={method}", "--out", out)
        assert done.returncode == 0, done.stderr
        report = json.loads((out / "report.json").read_text())
        normalized[method] = report["variants"][0]["normalized"]
        assert set(report["tasks"]) >= {task for task, scores in report["tasks"].items() if scores["seen"]} != set()

    # What merges give is reported, not asked for; that experts know their tasks is.
    assert normalized["individual"] == 1.0
    assert normalized["pretrained"] < 0.95
    assert all(normalized[method] > 0 for method in (*MERGES, "traditional_mtl"))
