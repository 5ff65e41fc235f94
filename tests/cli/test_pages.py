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


def test_defaults_are_shown_as_they_are_typed_and_only_numbers_have_a_range(cli):
    surgery = cli("show", "surgery").out.splitlines()
    lines = {line.split()[0]: line.split()[1:] for line in surgery if line and not line.startswith(" ")}
    assert lines["inner"][:3] == ['{"name":', '"task_arithmetic"}', "method"]
    assert lines["normalize"][:2] == ["false", "boolean"]
    assert lines["adapters"][:3] == ["null", "string", "an"]
    assert lines["batch"][:4] == ["16", "integer", "[1,", "inf)"]


def test_a_suite_is_shown_with_what_it_sets_and_its_page_and_a_family_with_what_it_serves(cli):
    shown = cli("show", "mini/clip").out
    assert "smile:      method.gate_k=4 method.k=16" in shown
    assert shown.rstrip().endswith("docs/suites-mini-clip.md")
    assert cli("show", "mini/t5_lora").out.rstrip().endswith("docs/suites-mini-t5.md")
    for name in ("mini/t5_choices", "mini/ia3"):
        assert cli("show", name).out.rstrip().endswith("docs/suites-mini-choices.md")
    assert cli("show", "t5-base/ties7").out.rstrip().endswith("docs/suites-papers.md")
    family = cli("show", "clip").out
    assert "  serves   clip\n" in family
    assert "  fuses    vision_model.\n" in family
    assert "  fuses    everything\n" in cli("show", "t5").out


def test_a_list_of_methods_says_category_as_show_does(cli):
    assert cli("list", "methods").out.splitlines()[0].split() == ["name", "category", "paper", "summary"]
    assert cli("list", "families").out.splitlines()[0].split() == ["name", "kind", "paper", "summary"]


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


def test_indices_are_written_with_a_line_below_in_the_terminal(tmp_path):
    page = tmp_path / "it.md"
    page.write_text("# it\n\nΣ<sub>i in top-k</sub> s<sub>tj</sub> of R<sup>n</sup>.\n")
    assert pages.essence(page) == ["Σ_{i in top-k} s_tj of R^{n}."]
