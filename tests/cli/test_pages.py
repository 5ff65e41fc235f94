"""From an error to the page that explains it, and what `show` prints of a page."""

from pathlib import Path

import pytest

from fusionbench.cli import pages
from fusionbench.config import Recipe
from fusionbench.errors import ConfigError
from fusionbench.registry import methods

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("method.densty=0.2", "not a parameter of ties"),
        ("method.density=3", "3 is outside its range"),
        ("method.compat=nobody", "ties has no compat 'nobody'"),
    ],
)
def test_a_wrong_parameter_leads_to_the_page_of_its_method(cli, wrong, said):
    code, _, err = cli("run", "suite=mini/clip", "method=ties", wrong, "--dry-run")
    assert code == 2
    assert said in err
    assert err.rstrip().endswith(f"See: fusionbench show ties ({ROOT / 'docs' / 'methods' / 'ties.md'})")


def test_an_inner_methods_mistake_leads_to_the_method_that_was_asked_for():
    with pytest.raises(ConfigError) as caught:
        Recipe.load(None, ["suite=mini/clip", "method=lines", "method.inner={name: ties, densty: 0.2}"])
    assert caught.value.about == "lines"


@pytest.mark.parametrize("words", [["suite=mini/clip", "method=ties", "sede=1"], ["suite=mini/clip", "method=tie"]])
def test_a_mistake_that_no_method_explains_names_no_page(cli, words):
    code, _, err = cli("run", *words, "--dry-run")
    assert code == 2
    assert "See:" not in err


def test_without_a_clone_the_error_names_only_what_is_there(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "FOLDER", tmp_path)
    err = cli("run", "suite=mini/clip", "method=ties", "method.density=3", "--dry-run").err
    assert err.rstrip().endswith("See: fusionbench show ties")
    out = cli("show", "ties").out
    assert "The whole page" not in out
    assert "density" in out


def test_show_prints_the_essence_of_the_page(cli):
    out = cli("show", "ties").out
    for words in (
        "Three causes of interference between task vectors are taken away: small entries are trimmed",
        "Formula. τ̂ᵢ keeps the",
        "Needs a base and at least one expert.",
        "Fails where the trimmed share is larger",
        "The whole page: ",
    ):
        assert words in out
    assert "**" not in out
    assert "Worked example" not in out


def test_a_family_and_a_task_are_shown_without_a_page(cli):
    assert "The whole page" not in cli("show", "clip").out


@pytest.mark.parametrize("name", [n for n in methods if methods[n].location.startswith("fusionbench.")])
def test_every_method_has_an_essence(name):
    page = pages.page_of(name)
    assert page is not None
    found = pages.essence(page)
    assert found[0]
    assert page.stem == "references" or [part.split()[0].rstrip(".") for part in found[1:]] == [
        "Formula",
        "Needs",
        "Fails",
    ]


def test_links_and_marks_are_left_out_of_the_essence(tmp_path):
    page = tmp_path / "it.md"
    page.write_text("# it\n\nA [link](x.md) and `code`.\n\n**Formula.** a\nb.\n\n**Laws.** none.\n\n**Fails** never.\n")
    assert pages.essence(page) == ["A link and code.", "Formula. a b.", "Fails never."]
