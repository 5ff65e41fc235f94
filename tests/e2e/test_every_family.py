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
MORE = {"t5 with LoRA": "mini/t5_lora", "t5 with choices": "mini/t5_choices", "t5 with (IA)³": "mini/ia3"}
SPACE = {"mini/ia3": ["space=adapter"]}
"""What a suite asks for beside a method."""
MERGES = ("simple_average", "task_arithmetic", "ties")
WITHOUT = {"open_clip"}
"""Families whose models are the papers' alone."""


def test_every_family_has_a_suite_that_needs_no_network() -> None:
    ours = {name for name in families if families[name].location.startswith("fusionbench.")}
    assert ours - WITHOUT == set(SUITES)


@pytest.mark.slow
@pytest.mark.parametrize("family", [*SUITES, *MORE])
def test_every_merge_runs_and_lies_between_what_it_is_held_against(family: str, fusionbench, tmp_path: Path) -> None:
    suite = (SUITES | MORE)[family]
    normalized = {}
    for method in ("pretrained", "individual", "traditional_mtl", *MERGES):
        out = tmp_path / method
        asked = (f"suite={suite}", "suite.size=tiny", f"method={method}", *SPACE.get(suite, []))
        done = fusionbench("run", *asked, "--out", out)
        assert done.returncode == 0, done.stderr
        report = json.loads((out / "report.json").read_text())
        normalized[method] = report["variants"][0]["normalized"]
        assert set(report["tasks"]) >= {task for task, scores in report["tasks"].items() if scores["seen"]} != set()

    # What merges give is reported, not asked for; that experts know their tasks is.
    assert normalized["individual"] == 1.0
    assert normalized["pretrained"] < 0.95
    assert all(normalized[method] > 0 for method in (*MERGES, "traditional_mtl"))
