"""The table of methods that look at data on every family, made again on suites that are built in a second."""

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import test_build
import test_mini_image
import test_mini_scene
import test_mini_t5
import test_text_suites

from fusionbench.suites.mini.assembly import read_recipes
from fusionbench.suites.mini.causal_lm_recipe import MiniCausalLmRecipe
from tiny_causal_lm import MICRO

ROOT = Path(__file__).resolve().parents[3]
RECORD = json.loads((ROOT / "docs/results/families-by-methods.json").read_text())["values"]
SIZES: dict[str, Any] = {
    "clip": test_build.MICRO,
    "image": test_mini_image.MICRO,
    "encoder": test_text_suites.MICRO,
    "gpt2": test_text_suites.MICRO,
    "t5": test_mini_t5.MICRO,
    "causal_lm": MiniCausalLmRecipe.read(MICRO),
    "scene": test_mini_scene.MICRO,
    "segmentation": test_mini_scene.MICRO,
}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
        spec = importlib.util.spec_from_file_location("families_by_methods", ROOT / "benchmarks/families_by_methods.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def made(name: str, script: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return a suite's column, from a build whose recipe takes the place of the size tiny."""
    of = script.SUITES[name][0].removeprefix("suite=mini/")
    suite = importlib.import_module(f"fusionbench.suites.mini.{of}")
    defaults = read_recipes(f"mini/{of}", type(SIZES[name]))[1]
    found = ({"tiny": SIZES[name]}, defaults)
    reader = "recipes" if hasattr(suite, "recipes") else "read_recipes"
    monkeypatch.setattr(suite, reader, lambda *_: found)
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(folder / "cache"))
    options = argparse.Namespace(
        folder=folder / "runs", size="tiny", seed=0, steps=1, examples=4, full=False, only="", record=None
    )
    rows: dict[str, Any] = script.table(name, options)
    return rows


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "clip" else []) for name in SIZES]
)
def test_every_method_runs_on_the_family_or_says_why_not(
    name: str, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made(name, script, tmp_path, monkeypatch)
    assert list(rows) == list(RECORD["suites"][name])
    for method, row in rows.items():
        recorded = RECORD["suites"][name][method]
        assert row.get("reason") == recorded.get("reason"), method
        if "reason" not in row:
            assert all(scores["value"] is not None for scores in row["tasks"].values()), method


def test_the_record_has_every_suite_and_every_row(script: ModuleType) -> None:
    assert list(RECORD["suites"]) == list(script.SUITES)
    assert all(list(rows) == list(script.METHODS) for rows in RECORD["suites"].values())


def test_reasons_are_single_sentences_with_a_way_out() -> None:
    reasons = {row["reason"] for rows in RECORD["suites"].values() for row in rows.values() if "reason" in row}
    assert reasons
    assert all(reason.endswith(".") and "\n" not in reason for reason in reasons)
