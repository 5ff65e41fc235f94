import pytest

from fusionbench.errors import ConfigError
from fusionbench.tasks.prompts import PROMPTS, Prompt, missing_columns, prompt_named

ROWS = {
    "glue/cola": ({"sentence": "He go."}, 0),
    "glue/mnli": ({"premise": "A.", "hypothesis": "B."}, 2),
    "glue/mrpc": ({"sentence1": "A.", "sentence2": "B."}, 1),
    "glue/qnli": ({"question": "A?", "sentence": "B."}, 1),
    "glue/qqp": ({"question1": "A?", "question2": "B?"}, 0),
    "glue/rte": ({"sentence1": "A.", "sentence2": "B."}, 0),
    "glue/sst2": ({"sentence": "Fine."}, 1),
    "glue/stsb": ({"sentence1": "A.", "sentence2": "B."}, 3.8),
}
SAID = {
    "glue/cola": (
        'Indicate if the following sentence is grammatically correct or not: "He go.". '
        "Answere 'acceptable' or 'unacceptable'.",
        "unacceptable",
    ),
    "glue/mnli": (
        "Does the premise: 'A.' logically imply, contradict, or is neutral to the hypothesis: 'B.'? "
        "Answere with 'entailment', 'contradiction', or 'neutral'.",
        "contradiction",
    ),
    "glue/mrpc": (
        "Are the following sentences 'A.' and 'B.' conveying the same meaning? Answere with 'yes' or 'no'.",
        "yes",
    ),
    "glue/qnli": (
        "Given the context: 'B.', does the question 'A?' have an answer based on the information provided? "
        "Answer with 'yes' or 'no'.",
        "no",
    ),
    "glue/qqp": ("Do the questions 'A?' and 'B?' have the same intent? Answere with 'yes' or 'no'.", "no"),
    "glue/rte": ("Does the text: 'A.' entail that 'B.' is true? Provide 'yes' or 'no'.", "yes"),
    "glue/sst2": (
        "Given the sentence 'Fine.', determine the sentiment. Is it positive or negative?",
        "positive",
    ),
    "glue/stsb": (
        "Consider the sentences 'A.' and 'B.'. On a scale from 1 (completely different) to 5 (completely similar), "
        "rate the similarity.",
        "3.8",
    ),
}


@pytest.mark.parametrize("name", sorted(SAID))
def test_a_prompt_reads_and_writes_what_the_papers_models_were_trained_on(name):
    row, label = ROWS[name]
    prompt = prompt_named(name)
    assert (prompt.question(row), prompt.answer(label)) == SAID[name]


def test_there_is_a_prompt_for_each_of_the_eight_tasks():
    assert sorted(PROMPTS) == sorted(SAID)


def test_an_unknown_prompt_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no prompt 'glue/sst'. Did you mean glue/sst2"):
        prompt_named("glue/sst")


def test_braces_in_a_row_are_text():
    assert Prompt(template="Say: {text}").question({"text": "{x} {}"}) == "Say: {x} {}"


@pytest.mark.parametrize("template", ["{}", "{0}", "{text!r}", "{text:>3}", "{a.b}", "{a[0]}"])
def test_what_is_no_column_cannot_stand_in_braces(template):
    with pytest.raises(ConfigError, match="must name columns in braces"):
        Prompt.read({"template": template})


def test_columns_that_a_data_set_lacks_are_named():
    assert missing_columns(("{a} and {b}", "{label}"), ("b", "c")) == ["a", "label"]


def test_numbers_are_written_with_one_decimal():
    prompt = Prompt(template="{text}")
    assert [prompt.answer(label) for label in (5, 0.25, 3.76)] == ["5.0", "0.2", "3.8"]
