"""The smallest size of suites that take longer than a test should: experts know their tasks better than the base."""

import json
from pathlib import Path
from statistics import fmean

import pytest

from fusionbench.suites import load_suite


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tasks", "gain"),
    [
        ("mini/t5", None, 0.1),
        ("mini/t5_choices", None, 0.1),
        ("mini/ia3", None, 0.05),
        ("mini/causal_lm", ("categories", "arithmetic", "sentiment"), 0.2),
    ],
)
def test_experts_of_tiny_know_their_tasks_better_than_the_base(name, tasks, gain, tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))
    suite = load_suite(name, size="tiny").suite
    scores = json.loads((Path(suite.pool.base).parent / "manifest.json").read_text())["scores"]
    mean = {
        row: fmean(next(iter(by[task].values())) for task in tasks or by)
        for row, by in scores.items()
        if row in ("pretrained", "individual")
    }
    assert mean["individual"] > mean["pretrained"] + gain
