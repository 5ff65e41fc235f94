"""The notebooks: every cell is Python that names what exists, the site shows them as they are, and they run."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

from fusionbench.registry import methods, suites
from fusionbench.suites import load_suite

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SAYS = {
    "first-merge": "by hand and by name agree: True",
    "interference": "TIES:    [0.9, 0.0, 0.8]",
    "language-models": "experts: categories arithmetic sentiment",
    "own-method": "identity, order, shift: hold",
}
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("notebooks")


def code_of(path: Path) -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_every_notebook_is_known_here():
    assert {path.stem for path in NOTEBOOKS} == set(SAYS)


@every
def test_a_notebook_holds_no_outputs(path):
    cells = json.loads(path.read_text())["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@every
def test_every_cell_parses_and_imports_what_exists(path):
    for code in code_of(path):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fusionbench"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            elif (
                isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fusionbench"
            ):
                assert hasattr(importlib.import_module("fusionbench"), node.attr), node.attr


@every
def test_every_method_and_suite_that_a_notebook_names_is_registered(path):
    code = "\n".join(code_of(path))
    named = set(re.findall(r'(?:scores|merged|recipe|accuracy|fuse)\(\s*"([\w]+)"', code))
    named |= set(re.findall(r"method=(\w+)", code))
    assert named
    assert named <= set(methods)
    assert set(re.findall(r"mini/\w+", code)) & set(suites)
    assert set(re.findall(r"mini/\w+", code)) <= set(suites)


@every
def test_the_page_on_the_site_shows_the_cells_as_they_are(path, runner):
    shown = (ROOT / "docs" / "notebooks" / f"{path.stem}.md").read_text()
    for cell in runner.cells(path):
        assert cell.source.strip() in shown, f"stale: python scripts/notebooks.py {path.stem}"


def test_the_runner_keeps_what_a_cell_prints_and_draws(tmp_path, runner):
    cells = [
        {"cell_type": "markdown", "source": ["# One\n", "two"]},
        {"cell_type": "code", "source": ['size = "small"\n', "print(size)"]},
        {"cell_type": "code", "source": ["import matplotlib.pyplot as plt\n", "plt.plot([1, 2])"]},
    ]
    (tmp_path / "it.ipynb").write_text(json.dumps({"cells": cells}))
    carried = list(runner.carried_out(tmp_path / "it.ipynb", "tiny"))
    assert [cell.printed for cell in carried] == ["", "tiny\n", ""]
    assert [len(cell.figures) for cell in carried] == [0, 0, 1]
    text, images = runner.page(tmp_path / "it.ipynb", carried)
    assert text.startswith("# One\ntwo\n\n*This is `notebooks/it.ipynb`")
    assert '```python\nsize = "small"\nprint(size)\n```\n\n```text\ntiny\n```' in text
    assert text.rstrip().endswith("(it-1.png)")
    assert images["it-1.png"].startswith(b"\x89PNG")


@pytest.fixture
def built(path, cache, monkeypatch):
    """The suites that a notebook names, built once for all tests of the session."""
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(cache))
    for name in sorted(set(re.findall(r"mini/\w+", "\n".join(code_of(path))))):
        load_suite(name, size="tiny")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@every
def test_a_notebook_runs_on_the_smallest_suite(path, runner, built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sum(code.count(runner.USUAL) for code in code_of(path)) == 1
    printed = "".join(cell.printed for cell in runner.carried_out(path, "tiny"))
    assert SAYS[path.stem] in printed
