"""Every script of examples/ runs."""

import runpy
import sys
from pathlib import Path

import pytest

from fusionbench.suites import load_suite

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "first_merge": "individual       average",
    "interference": "share of all change",
    "merge_your_own": "TIES of one tensor moved it by",
}


def test_every_example_is_run_by_this_file():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_on_the_smallest_suite(name, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    load_suite("mini/clip", size="tiny")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *(["tiny"] if name != "merge_your_own" else [])])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert SAYS[name] in capsys.readouterr().out
