"""The four local tasks of the LM Evaluation Harness by the command line; skipped without the extra `lm-eval`."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tiny_causal_lm import MICRO

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="the extra lm-eval is not installed"),
    pytest.mark.filterwarnings("ignore"),
]
HARNESS = ["harness_categories", "harness_mass", "harness_arithmetic", "harness_sentiment"]


@pytest.fixture
def micro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of a second in the place of the tiny one."""
    from fusionbench.suites.mini import causal_lm
    from fusionbench.suites.mini.causal_lm_recipe import MiniCausalLmRecipe, recipes

    _, defaults = recipes()
    recipe = MiniCausalLmRecipe.read(MICRO, "micro")
    monkeypatch.setattr(causal_lm, "recipes", lambda: ({"tiny": recipe}, defaults))


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_a_merged_model_is_scored_in_memory_and_from_its_folder(micro, fusionbench, tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    asked = ("suite=mini/causal_lm_harness", "suite.size=tiny", "method=simple_average")
    done = fusionbench("run", *asked, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = report(tmp_path / "out")["tasks"]
    assert [name for name, task in found.items() if not task["seen"]] == HARNESS
    assert {name: task[next(key for key in task if key != "seen")]["n"] for name, task in found.items()} == {
        **dict.fromkeys(("categories", "arithmetic", "sentiment"), 11), **dict.fromkeys(HARNESS, 11),
    }  # fmt: skip
    again = fusionbench("evaluate", tmp_path / "out" / "model", *asked[:2], "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["tasks"] == found


def test_a_mixed_model_is_one_module_and_an_ensemble_is_refused(micro, fusionbench, tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    asked = ("suite=mini/causal_lm_harness", "suite.size=tiny", "tasks.seen=[]", "tasks.unseen=[harness_categories]")
    done = fusionbench("run", *asked, "method=smile", "method.gate_k=2", "method.k=4", "--out", tmp_path / "smile")
    assert done.returncode == 0, done.stderr
    done = fusionbench("run", *asked, "method=simple_ensemble", "--out", tmp_path / "ensemble")
    assert done.returncode == 2, done.stderr
