"""Mixtures of language models through the command line, on `mini/causal_lm` at a size that is built in a second."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusionbench.suites.mini import causal_lm
from fusionbench.suites.mini.causal_lm_recipe import MiniCausalLmRecipe, recipes
from tiny_causal_lm import MICRO

Run = Callable[..., subprocess.CompletedProcess[str]]
SUITE = ("suite=mini/causal_lm", "suite.size=tiny")


@pytest.fixture(autouse=True)
def micro(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size tiny is one that is built in a second; no cache mixes them up, recipes being part of the build id."""
    sizes = {"tiny": MiniCausalLmRecipe.read(MICRO)}
    defaults = recipes()[1]
    monkeypatch.setattr(causal_lm, "recipes", lambda: (sizes, defaults))


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def values(found: dict[str, Any]) -> dict[str, float]:
    tasks = found["tasks"]
    return {f"{t} {m}": one["value"] for t, of in tasks.items() for m, one in of.items() if isinstance(one, dict)}


def test_a_mixtral_is_evaluated_in_its_run_and_as_a_folder(fusionbench: Run, tmp_path: Path) -> None:
    for method in ("pretrained", "moe_upscaling", "moe_merging"):
        found = fusionbench("run", *SUITE, f"method={method}", "--out", tmp_path / method)
        assert found.returncode == 0, found.stderr
    dense, copies, merged = (values(report(tmp_path / name)) for name in ("pretrained", "moe_upscaling", "moe_merging"))
    assert copies == pytest.approx(dense, rel=1e-5)
    assert merged != pytest.approx(dense, rel=1e-3)
    for method, scores in (("moe_upscaling", copies), ("moe_merging", merged)):
        again = fusionbench("evaluate", tmp_path / method / "model", *SUITE, "--json")
        assert again.returncode == 0, again.stderr
        said = json.loads(again.stdout)
        assert values(said) == scores
        assert said["method"]["name"] == method


def test_a_fused_model_is_trained_further_by_the_folder_of_its_run(fusionbench: Run, tmp_path: Path) -> None:
    assert fusionbench("run", *SUITE, "method=moe_merging", "--out", tmp_path / "run").returncode == 0
    asked = (f"init={tmp_path / 'run'}", *SUITE, "recipe.steps=3", "recipe.balance=0.01", "tasks=[language]")
    found = fusionbench("finetune", *asked, "--out", tmp_path / "out")
    assert found.returncode == 0, found.stderr
    assert "language perplexity" in found.stdout
    again = fusionbench("evaluate", tmp_path / "out" / "language", *SUITE, "--json")
    record = json.loads((tmp_path / "out" / "language" / "fusionbench.json").read_text())
    expected = record["scores"]["language"]["test"]["perplexity"]
    assert json.loads(again.stdout)["tasks"]["language"]["perplexity"]["value"] == pytest.approx(expected, rel=1e-6)
    assert record["recipe"]["balance"] == 0.01


def test_a_pool_is_trained_in_rounds(fusionbench: Run, tmp_path: Path) -> None:
    assert fusionbench("run", *SUITE, "method=recombination", "--out", tmp_path / "run").returncode == 0
    asked = (f"init={tmp_path / 'run'}", *SUITE, "recipe.steps=1", "rounds=2", "averaged=1")
    found = fusionbench("finetune", *asked, "--out", tmp_path / "out")
    assert found.returncode == 0, found.stderr
    assert str(tmp_path / "out" / "average") in found.stdout.replace("\n", "")
    assert sorted(path.name for path in (tmp_path / "out" / "model").iterdir()) == [
        "arithmetic",
        "categories",
        "sentiment",
    ]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("rounds=2",), "rounds are for a pool of fused models"),
        (("averaged=1",), "rounds are for a pool of fused models"),
        (("init=./nowhere", "tasks=[language]"), "nowhere"),
        (("recipe.balance=-1",), "recipe"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_error(asked: tuple[str, ...], said: str, fusionbench: Run) -> None:
    found = fusionbench("finetune", *SUITE, *asked, "--out", "out")
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert said in found.stderr
    assert "Traceback" not in found.stderr
