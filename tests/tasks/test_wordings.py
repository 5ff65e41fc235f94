"""Wordings against promptsource itself, which filled the same rows (tests/reference/make_promptsource_wordings.py)."""

import json
from pathlib import Path

import pytest

from fusionbench.errors import ConfigError
from fusionbench.tasks.wordings import FOLDER, JinjaWording, label_of, wording_list

GOLDEN = json.loads((Path(__file__).parents[1] / "reference/golden/promptsource.json").read_text())
# Wordings of the original task less those that the papers' code leaves out; for four tasks only the first is used.
COUNTS = {
    "paws": 1, "qasc": 1, "quartz": 1, "wiki_qa": 1, "story_cloze": 5, "winogrande": 5, "wsc": 10, "rte": 10, "cb": 15,
    "wic": 10, "copa": 8, "hellaswag": 7, "anli": 15,
}  # fmt: skip


def test_there_are_as_many_wordings_as_the_papers_use():
    assert {path.stem: len(wording_list(path.stem).wordings) for path in FOLDER.glob("*.yaml")} == COUNTS


@pytest.mark.parametrize("name", COUNTS)
def test_every_wording_asks_and_offers_what_promptsource_does(name):
    known = wording_list(name)
    for case in GOLDEN[name]:
        assert [wording.question(case["row"]) for wording in known.wordings] == case["asked"]
        offered = [list(wording.answers(case["row"])) for wording in known.wordings]
        assert offered == case["choices"]
        assert {len(answers) for answers in offered} == {known.choices}


@pytest.mark.parametrize("name", COUNTS)
def test_the_label_is_the_index_of_the_answer_that_promptsource_would_write(name):
    known = wording_list(name)
    for case in GOLDEN[name]:
        index = label_of(known.label, case["row"])
        right = [offered[index] for offered in case["choices"]]
        assert right == case["right"]


@pytest.mark.parametrize("name", COUNTS)
def test_every_list_names_its_source_and_licence_and_only_columns_that_rows_have(name):
    known = wording_list(name)
    assert known.source.startswith("promptsource 0.2.3")
    assert known.license.startswith("Apache-2.0")
    assert {column for wording in known.wordings for column in wording.columns} <= set(GOLDEN[name][0]["row"])


def wording(question: str, choices: str = "yes ||| no") -> JinjaWording:
    return JinjaWording.read({"name": "mine", "question": question, "choices": choices}, "A wording")


def test_a_long_value_is_cut_and_a_separator_in_a_value_separates_nothing():
    filled = wording("{{text}} ||| {{answer_choices[0]}}", "{{text}} ||| b")
    assert filled.question({"text": "word " * 1000}) == ("word " * 1000)[:2044] + "..."
    assert filled.question({"text": "a ||| c"}) == "a ||| c"
    assert filled.answers({"text": "a ||| c"}) == ("a ||| c", "b")


@pytest.mark.parametrize(
    "question", ["{{ text.__class__.__mro__ }}", "{{ [].append(1) }}", "{{ cycler }}{{ cycler.__init__.__globals__ }}"]
)
def test_a_template_cannot_reach_out_of_its_row(question):
    with pytest.raises(ConfigError, match="cannot be filled"):
        wording(question).question({"text": "a"})


def test_what_is_no_template_or_no_list_is_refused():
    with pytest.raises(ConfigError, match="no Jinja template"):
        wording("{% if %}")
    with pytest.raises(ConfigError, match="Did you mean rte"):
        wording_list("rtee")
    with pytest.raises(ConfigError, match="cannot be filled from a row with text"):
        wording("{{ text[0].nothing.more }}").question({"text": "a"})
