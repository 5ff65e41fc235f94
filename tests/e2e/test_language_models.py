"""Decoder-only language models through the command line, on `mini/causal_lm` at a size that is built in a second."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from fusionbench.suites.mini import causal_lm
from fusionbench.suites.mini.causal_lm_recipe import MiniCausalLmRecipe, recipes
from tiny_causal_lm import MICRO

Run = Callable[..., subprocess.CompletedProcess[str]]
METHODS: dict[str, tuple[str, ...]] = {
    "individual": (),
    "ties": ("method.density=0.5",),
    "regmean": ("method.examples=6", "method.batch=3"),
    "adamerging": ("method.steps=2", "method.batch=2"),
}


@pytest.fixture(autouse=True)
def micro(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size tiny is one that is built in a second; no cache mixes them up, recipes being part of the build id."""
    sizes = {"tiny": MiniCausalLmRecipe.read(MICRO)}
    defaults = recipes()[1]
    monkeypatch.setattr(causal_lm, "recipes", lambda: (sizes, defaults))


def report(found: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((found / "report.json").read_text())
    return said


@pytest.mark.parametrize("method", METHODS)
def test_methods_run_on_a_language_model_and_perplexity_stays_out_of_the_average(
    method: str, fusionbench: Run, tmp_path: Any
) -> None:
    chosen = ("suite=mini/causal_lm", "suite.size=tiny", f"method={method}", *METHODS[method])
    found = fusionbench("run", *chosen, "--out", tmp_path / "run")
    assert found.returncode == 0, found.stderr
    said = report(tmp_path / "run")
    shown = {name: task["seen"] for name, task in said["tasks"].items()}
    assert [name for name, seen in shown.items() if seen] == ["categories", "arithmetic", "sentiment"]
    scores = [said["tasks"][name]["accuracy"]["value"] for name, seen in shown.items() if seen]
    assert said["average"]["accuracy"] == pytest.approx(sum(scores) / 3)
    if method != "individual":
        assert shown["language"] is False
        assert said["tasks"]["language"]["perplexity"]["value"] > 1
        assert said["unseen_average"] is None


def test_fisher_needs_labels_where_choices_give_no_distribution_and_says_so(fusionbench: Run, tmp_path: Any) -> None:
    chosen = ("suite=mini/causal_lm", "suite.size=tiny", "method=fisher", "method.examples=4")
    found = fusionbench("run", *chosen, "method.estimator=exact", "--out", tmp_path / "exact")
    assert found.returncode == 2
    assert "Use method.estimator=empirical" in found.stderr
    assert "Traceback" not in found.stderr
    found = fusionbench("run", *chosen, "--out", tmp_path / "run")
    assert found.returncode == 0, found.stderr
