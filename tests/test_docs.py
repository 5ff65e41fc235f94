"""What the documentation says is there: pages of methods, generated blocks, and every command line it shows."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.config import Recipe
from fusionbench.overrides import sweep
from fusionbench.registry import methods
from fusionbench.suites.request import FinetuneRequest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "methods").glob("*.md"))]
SHARED_PAGE = {"pretrained", "individual", "traditional_mtl"}


@pytest.mark.parametrize("name", [n for n in methods if methods[n].location.startswith("fusionbench.")])
def test_every_method_has_a_page_that_says_what_it_should(name: str) -> None:
    page = ROOT / "docs" / "methods" / f"{'references' if name in SHARED_PAGE else name}.md"
    text = page.read_text()
    assert text.startswith("# ")
    if name not in SHARED_PAGE:
        for part in ("Worked example", "Needs", "Cost", "Fails", "others differ"):
            assert part.lower() in text.lower(), f"{page.name} lacks {part}"
        assert f"parameters {name} -->" in text


def test_generated_blocks_are_fresh() -> None:
    render = [sys.executable, str(ROOT / "scripts" / "render_docs.py"), "--check"]
    found = subprocess.run(render, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:bash|console)\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                found += [
                    (page.name, part.strip()) for part in line.split("&&") if part.strip().startswith("fusionbench ")
                ]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_that_is_shown_is_understood(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recipes and requests are read as the verb reads them; nothing is opened or run."""
    monkeypatch.chdir(tmp_path)
    verb, *arguments = shlex.split(line, comments=True)[1:]
    overrides = [a for a in arguments if "=" in a and not a.startswith("-")]
    for file in {a.partition("=")[2] for a in overrides if a.startswith("suite=./")}:
        Path(file).write_text("name: mine\n")
    readers: dict[str, Callable[[], object]] = {
        "run": lambda: [Recipe.load(None, each) for each in (sweep(overrides) if "-m" in arguments else [overrides])],
        "merge": lambda: Recipe.load(None, overrides) if overrides else None,
        "evaluate": lambda: Recipe.load(None, ["method=pretrained", *overrides]),
        "finetune": lambda: FinetuneRequest.load(overrides),
    }
    readers.get(verb, lambda: None)()
    known = {
        "quickstart",
        "list",
        "show",
        "inspect",
        "run",
        "merge",
        "evaluate",
        "finetune",
        "report",
        "schema",
        "convert",
    }
    assert verb in known


def test_the_pages_name_no_path_of_a_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(/work/|/tmp/|/root/|\.\./shared|\.library)", page.read_text()), page.name
