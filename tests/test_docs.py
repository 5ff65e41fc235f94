"""What the documentation says is there: pages of methods, generated blocks, and every command line it shows."""

import ast
import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

from fusionbench.cli.application import application
from fusionbench.cli.listing import find
from fusionbench.config import Recipe
from fusionbench.experiments.model import load_experiment
from fusionbench.overrides import sweep
from fusionbench.registry import experiments, families, methods, suites
from fusionbench.suites.request import FinetuneRequest
from fusionbench.sweep.space import split

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
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


@pytest.mark.parametrize("name", list(experiments))
def test_every_experiment_has_a_page_with_its_rows_and_commands(name: str) -> None:
    text = (ROOT / "docs" / "experiments" / f"{name}.md").read_text()
    found = load_experiment(name)
    assert f"\nfusionbench reproduce {name}\nfusionbench reproduce {name} --suite mini\n" in text
    assert found.title in text
    assert all(row.label.replace("|", "\\|") in text for row in found.rows)
    assert all(f"name={row.method['name']}" in text for row in found.rows)
    assert all(claim.text in text for claim in found.claims)
    assert all(f"`{file}`" in text for file in found.published)
    assert f"`{found.suite['name']}`" in text
    assert f"`{found.stand_in['name']}`" in text


@pytest.mark.parametrize("name", list(suites))
def test_every_suite_has_a_page_that_tells_of_it(name: str) -> None:
    listed = re.search(rf"\| \[`{re.escape(name)}`\]\(([\w.-]+)\)", (ROOT / "docs" / "families.md").read_text())
    assert listed
    group, _, own = name.partition("/")
    told = (ROOT / "docs" / listed[1]).read_text()
    assert name in told or (f"`{group}/…`" in told and f"`{own}`" in told)


@pytest.mark.parametrize("name", list(families))
def test_every_family_is_described(name: str) -> None:
    assert f"\n| `{name}` |" in (ROOT / "docs" / "families.md").read_text()


def test_every_public_name_says_what_it_is() -> None:
    """The page of Python names is generated; a name without a docstring would leave its cell empty."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs" / "reference" / "python.md").read_text(), re.MULTILINE)
    assert {"fuse", "load_suite", "merge_method", "geometry", "Recipe"} <= {name for name, _ in rows}
    assert [name for name, said in rows if not said.strip()] == []


UNREAD = {"log", "status", "decisions", "design", "reading-list", "glossary"}
WORDS = {
    *("FusionBench", "OpenAI", "PyTorch", "NumPy", "SciPy", "OpenCV", "ImageMagick", "PowerShell", "SQLite", "MLflow"),
    *(
        "MergeLM",
        "FuseChat",
        "QuartetAnemoi",
        "PROMPTED",
        "TABLE",
        "DIR",
        "NOTICE",
        "PNG",
        "PDF",
        "KB",
        "MB",
        "GB",
        "KiB",
        "II",
        "III",
    ),
}
"""Capitals that are names of programs, units, numbers, or words that a command takes."""


def test_every_abbreviation_is_explained_where_it_stands() -> None:
    """The site explains those of `docs/abbreviations.txt` on each page; names of methods have pages of their own."""
    listed = set(re.findall(r"^\*\[(.+?)\]:", (ROOT / "docs" / "abbreviations.txt").read_text(), re.MULTILINE))
    ours = {name.replace("_", "").casefold() for name in methods}
    unknown: dict[str, str] = {}
    for page in PAGES:
        place = str(page.relative_to(ROOT))
        if page.stem in UNREAD or "experiments/" in place or "reference/" in place:
            continue
        text = re.sub(
            r"```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]*>|\(IA\)³|github\.com/\S+", " ", page.read_text(), flags=re.DOTALL
        )
        for found in re.findall(r"(?<![\w-])([A-Z][A-Za-z]*[A-Z][A-Za-z]*?)s?(?!\w)", text):
            if found not in listed and found not in WORDS and found.casefold() not in ours:
                unknown.setdefault(found, place)
    assert unknown == {}


PRAISE = (
    r"powerful|seamless|cutting.edge|state.of.the.art|blazing|effortless|revolutionary|world.class|game.chang|robustly"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_states_facts_and_does_not_praise(page: Path) -> None:
    assert re.findall(PRAISE, page.read_text(), re.IGNORECASE) == []


def test_pictures_are_drawn_from_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method of ours stands in its category's box, once; nothing is wider than the picture."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    pictures = importlib.import_module("pictures")
    shown = (ROOT / "docs" / "images" / "taxonomy.svg").read_text()
    words = re.findall(r">([^<]*)</text>", shown)
    for name in methods:
        entry = methods[name]
        if entry.category != "reference" and entry.location.startswith("fusionbench."):
            assert sum(words_of.split().count(name) for words_of in words) == 1, name
    assert max(len(line) for line in words) <= pictures.ACROSS
    assert pictures.groups_of("ensemble")["chosen on validation data"] == ["weighted_ensemble"]


def test_generated_blocks_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    render_docs = importlib.import_module("render_docs")
    stale = [str(path.relative_to(ROOT)) for path in render_docs.stale()]
    assert stale == [], "run: python scripts/render_docs.py"


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:bash|console)\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                found += [
                    (page.name, part.strip()) for part in line.split("&&") if part.strip().startswith("fusionbench ")
                ]
    return found


def made_on(page: str) -> set[str]:
    """The folders that the commands of a page make: `reproduce` takes them as it takes experiments."""
    lines = [shlex.split(line, comments=True) for name, line in commands() if name == page]
    return {words[words.index("--out") + 1] for words in lines if "--out" in words}


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
    for file in {a for a in arguments if re.fullmatch(r"[\w-]+\.ya?ml", a)}:
        Path(file).write_text("merge_method: linear\n")
    readers: dict[str, Callable[[], object]] = {
        "search": lambda: split(overrides, 8),
        "plan": lambda: Recipe.load(None, overrides),
        "analyze": lambda: Recipe.load(None, ["method=pretrained", *overrides]) if overrides else None,
        "run": lambda: [Recipe.load(None, each) for each in (sweep(overrides) if "-m" in arguments else [overrides])],
        "merge": lambda: Recipe.load(None, overrides) if overrides else None,
        "evaluate": lambda: Recipe.load(None, ["method=pretrained", *overrides]),
        "finetune": lambda: FinetuneRequest.load(overrides),
        "fetch": lambda: Recipe.load(None, ["method=pretrained", *overrides]),
        "reproduce": lambda: arguments[0] in made_on(page) or load_experiment(arguments[0]),
        "show": lambda: find(arguments[0]),
    }
    verbs = typer.main.get_command(application).commands  # type: ignore[attr-defined]
    assert verb in verbs, f"{page} shows a verb that is not there"
    # An option that the verb does not have, or a choice that it does not know, is an error here.
    verbs[verb].make_context(verb, arguments[: arguments.index(">")] if ">" in arguments else list(arguments))
    readers.get(verb, lambda: None)()


def test_every_page_is_in_the_menu_and_the_menu_names_no_other() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def leaves(items: list[object]) -> list[str]:
        found: list[str] = []
        for item in items:
            for entry in item.values() if isinstance(item, dict) else [item]:
                found += leaves(entry) if isinstance(entry, list) else [str(entry)]
        return found

    shown = leaves(menu)
    there = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.name != "README.md"}
    assert sorted(shown) == sorted(set(shown))
    assert set(shown) == there


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_page_or_a_file_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def python_blocks() -> list[tuple[str, str]]:
    return [
        (f"{page.relative_to(ROOT)}:{number}", block)
        for page in PAGES
        if page.name != "design.md"  # signatures, not programs
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    ]


@pytest.mark.parametrize(("place", "block"), python_blocks(), ids=lambda value: value if ".md:" in value else "")
def test_python_in_the_docs_names_what_exists(place: str, block: str) -> None:
    """Every import is carried out and every attribute of the package looked up; calls are run where a test says so."""
    tree = ast.parse(block)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), place
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fusionbench":
            assert hasattr(importlib.import_module("fusionbench"), node.attr), place


def test_the_method_of_the_guide_keeps_the_laws_that_it_claims() -> None:
    text = (ROOT / "docs" / "guides" / "own-method.md").read_text()
    block = next(block for _, block in python_blocks() if "def furthest" in block)
    assert block in text
    names: dict[str, Any] = {"__name__": "furthest"}
    exec(block, names)
    furthest = names["furthest"]
    base, one, two = torch.zeros(3), torch.tensor([1.0, -3.0, 0.0]), torch.tensor([-2.0, 1.0, 0.5])
    assert furthest(base, [one, two]).tolist() == [-2.0, -3.0, 0.5]
    assert furthest(base, [two, one]).tolist() == [-2.0, -3.0, 0.5]
    assert furthest(base, [one, two], scale=0.0).tolist() == [0.0, 0.0, 0.0]
    assert furthest.entry.laws == ("identity", "order", "scale_zero", "shift", "single")


def test_the_family_and_the_task_of_the_guide_are_those_of_the_package_that_is_run() -> None:
    package = (ROOT / "tests/plugin/src/fusionbench_test_plugin/__init__.py").read_text()
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "docs/guides/own-family.md").read_text(), re.DOTALL)
    assert len(shown) == 2
    assert all(block in package for block in shown)


def test_the_pages_name_no_path_of_a_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(/work/|/tmp/|/root/|\.\./shared|\.library)", page.read_text()), page.name
