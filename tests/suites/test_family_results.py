"""The record and the table of suites over seeds, on reports written by hand."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def loaded(folder: str, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT / folder), *sys.path])
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded("benchmarks", "families", monkeypatch)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded("scripts", "family_results", monkeypatch)


def report(suite: str, seed: int, method: str, normalized: float, average: float | None) -> dict[str, Any]:
    return {
        "suite": {"name": suite, "size": "small", "seed": seed, "build": f"small-{seed}-abc"},
        "method": {"name": method},
        "primary_average": None if average is None else {"value": average, "metric": "accuracy"},
        "variants": [{"normalized": normalized}],
    }


def test_rows_are_gathered_by_suite_and_seed_and_unfinished_builds_left_out(record: ModuleType) -> None:
    reports = [report("mini/a", seed, row, seed / 10, None) for seed in (2, 0) for row in record.ROWS]
    reports += [report("mini/a", 1, "ties", 0.5, None), report("mini/b", 0, "ties", 0.5, 0.5)]

    found = record.gathered(reports)

    assert list(found) == ["mini/a"]
    assert (found["mini/a"]["seeds"], found["mini/a"]["metric"]) == ([0, 2], None)
    assert found["mini/a"]["builds"] == ["small-0-abc", "small-2-abc"]
    assert found["mini/a"]["rows"]["ties"] == {"average": None, "normalized": [0.0, 0.2]}


def test_two_reports_of_one_build_and_method_are_refused(record: ModuleType) -> None:
    with pytest.raises(ValueError, match="mini/a: two reports of seed 0 and ties"):
        record.gathered([report("mini/a", 0, "ties", 0.5, 0.5)] * 2)


def test_cells_are_the_mean_and_its_standard_error(page: ModuleType) -> None:
    # Deviations −.1, 0, .1: standard deviation .1, over √3 .0577.
    assert page.spread([0.4, 0.5, 0.6]) == "0.500 ± 0.058"
    assert page.spread([0.4, 0.6]) == "0.500 ± 0.100"
    assert page.spread([0.25]) == "0.250"


def test_the_table_has_a_line_a_suite_and_leaves_out_those_without_the_value(
    record: ModuleType, page: ModuleType
) -> None:
    reports = [report("mini/a", 0, row, 0.5, None) for row in record.ROWS]
    reports += [report("mini/b", seed, row, 0.7, 0.6) for row in record.ROWS for seed in (0, 1)]
    suites = record.gathered(reports)

    assert page.table(suites, "normalized").splitlines()[2:] == [
        "| `mini/a` | 0 |" + " 0.500 |" * 6,
        "| `mini/b` | 0, 1 |" + " 0.700 ± 0.000 |" * 6,
    ]
    assert page.table(suites, "average").splitlines()[2:] == ["| `mini/b` | 0, 1 |" + " 0.600 ± 0.000 |" * 6]
