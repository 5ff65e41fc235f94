"""The record and the table of one suite's methods over suite seeds, on reports written by hand."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), str(ROOT / "scripts"), *sys.path])
    found = {}
    for folder, name in (("benchmarks", "table"), ("scripts", "adaptive_results")):
        spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        found[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found[name])
    return found


def report(method: str, seed: int, average: float, **params: Any) -> dict[str, Any]:
    return {
        "suite": {"name": "mini/clip", "size": "small", "seed": seed},
        "method": {"name": method, "params": params},
        "tasks": {"digits": {"seen": True, "accuracy": {"value": average}}},
        "average": {"accuracy": average},
    }


def test_rows_join_the_seeds_and_are_ordered_by_their_mean(loaded: dict[str, ModuleType]) -> None:
    reports = [report("ties", 1, 0.7, scale=1.0), report("ties", 0, 0.8, scale=1.0), report("wemoe", 0, 0.6)]
    found = loaded["table"].over_seeds([*reports, report("pretrained", 0, 0.9)])
    assert [row["label"] for row in found["rows"]] == ["pretrained", "wemoe", "ties (scale=1.0)"]
    assert found["rows"][2]["seeds"] == [0, 1]
    assert found["rows"][2]["averages"] == [0.8, 0.7]
    assert found["rows"][2]["tasks"] == {"digits": [0.8, 0.7]}


def test_reports_that_make_no_table_are_refused(loaded: dict[str, ModuleType]) -> None:
    with pytest.raises(ValueError, match="Two reports of seed 0 and ties"):
        loaded["table"].over_seeds([report("ties", 0, 0.7)] * 2)
    other = report("ties", 0, 0.7)
    other["suite"]["name"] = "mini/t5"
    with pytest.raises(ValueError, match="of one suite"):
        loaded["table"].over_seeds([report("ties", 0, 0.7), other])


def test_orders_are_held_within_seeds(loaded: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences .1 and −.02 and 0: mean .027, deviation .064, over √3 .037; one of three holds."""
    regmean, average = (0.7, 0.5, 0.6), (0.6, 0.52, 0.6)
    reports = [report("regmean", seed, value) for seed, value in enumerate(regmean)]
    reports += [report("simple_average", seed, value) for seed, value in enumerate(average)]
    record = {"values": loaded["table"].over_seeds(reports)}
    monkeypatch.setattr(loaded["adaptive_results"], "read", {"made": record}.__getitem__)
    monkeypatch.setattr(loaded["adaptive_results"], "origin", lambda _: "made by hand")
    said = loaded["adaptive_results"].seeds_table("made")
    assert "| regmean > simple_average | 0.027 ± 0.037 | 1 of 3 seeds |" in said
    assert "| regmean | 0.600 ± 0.058 | 0: 0.700, 1: 0.500, 2: 0.600 |" in said
    assert said.count(" > ") == 1
