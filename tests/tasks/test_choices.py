"""Rank classification against log-probabilities that transformers' own loss gives, one choice at a time."""

import json

import pytest
import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration

from fusionbench.errors import ConfigError, MissingData, NotFinite
from fusionbench.families import family_named, load_module
from fusionbench.tasks import build_task, evaluate
from fusionbench.weights.sources import open_source

ROWS = [
    {"sentence": "good film", "other": "bad", "label": 1},
    {"sentence": "a bad day", "other": "yes good", "label": 0},
    {"sentence": "film", "other": "maybe maybe no", "label": 1},
]
WORDINGS = [
    {"template": "Is it {sentence} ?", "choices": ["no", "{other}"]},
    {"template": "{sentence} yes no ?", "choices": ["bad bad", "good film"]},
]


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return {"kind": "choices", "dataset": str(tmp_path / "data"), "options": {"wordings": WORDINGS}}


@pytest.fixture
def base(cache, t5_folder):
    return open_source(t5_folder)


@pytest.fixture
def task(base, spec):
    return build_task("plausible", spec, family_named("t5"), base)


@pytest.fixture
def module(base):
    return load_module(family_named("t5"), base)


def theirs(folder) -> torch.Tensor:
    """Σ log p of each choice, from the loss of transformers, which is the mean over its tokens."""
    model, tokenizer = T5ForConditionalGeneration.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for row in ROWS:
        for wording in WORDINGS:
            question = tokenizer(wording["template"].format(**row), return_tensors="pt")
            for choice in wording["choices"]:
                labels = tokenizer(choice.format(**row), return_tensors="pt")["input_ids"]
                with torch.no_grad():
                    found.append(-model(**question, labels=labels).loss * labels.numel())
    return torch.stack(found).view(3, 2, 2)


def test_scores_are_sums_of_log_probabilities_not_divided_by_length(task, module, t5_folder):
    (batch,) = task.batches("test", size=3)
    with torch.no_grad():
        scores = task.bind(module)(batch)
    torch.testing.assert_close(scores, theirs(t5_folder), atol=1e-4, rtol=1e-4)


def test_the_accuracy_is_the_median_over_wordings(task, module, t5_folder):
    class Fused:
        def for_task(self, one):
            return one.bind(module)

    right = (theirs(t5_folder).argmax(-1) == torch.tensor([[1], [0], [1]])).double()
    result = evaluate(Fused(), task, keep_rows=True)
    assert torch.equal(torch.from_numpy(result.rows["correct"]).double(), right)
    assert result.scores["median_accuracy"].value == pytest.approx(float(right.mean(0).mean()))
    assert result.scores["median_accuracy"].n == 3


def test_the_loss_is_of_the_right_choices_and_the_objective_is_the_entropy_of_the_choices(task, module, t5_folder):
    (batch,) = task.batches("test", size=3)
    scores = theirs(t5_folder).double()
    expected = -torch.stack([scores[0, :, 1], scores[1, :, 0], scores[2, :, 1]]).mean()
    p = scores.softmax(-1)
    with torch.no_grad():
        predict = task.bind(module)
        assert task.loss(predict, batch).item() == pytest.approx(expected.item(), rel=1e-4)
        (unlabelled,) = task.batches("test", size=3, labels=False)
        assert "labels" not in unlabelled
        entropy = task.objective(predict, unlabelled)
    assert entropy.item() == pytest.approx(-(p * p.log()).sum(-1).mean().item(), rel=1e-4)


def test_questions_are_read_once(task, module):
    rows = []
    module.encoder.register_forward_hook(lambda _, given, made: rows.append(len(made[0])))
    (batch,) = task.batches("test", size=3)
    with torch.no_grad():
        task.bind(module)(batch)
    assert rows == [6]


def test_broken_weights_are_refused(task, module):
    with torch.no_grad():
        module.shared.weight.fill_(torch.nan)
    (batch,) = task.batches("test", size=3)
    with torch.no_grad(), pytest.raises(NotFinite, match="plausible hold NaN or Inf"):
        task.rows(task.bind(module), batch)


def test_wordings_with_other_numbers_of_choices_are_refused(base, spec):
    spec["options"]["wordings"] = [WORDINGS[0], WORDINGS[1] | {"choices": ["a", "b", "c"]}]
    with pytest.raises(ConfigError, match=r"have \[2, 3\] choices; give each as many"):
        build_task("plausible", spec, family_named("t5"), base)


@pytest.mark.parametrize("choices", [["only one"], []])
def test_one_choice_is_none(base, spec, choices):
    spec["options"]["wordings"] = [WORDINGS[0] | {"choices": choices}]
    with pytest.raises(ConfigError, match="choices"):
        build_task("plausible", spec, family_named("t5"), base)


def test_a_column_that_only_a_choice_names_must_be_there(base, spec):
    spec["options"]["wordings"] = [WORDINGS[0] | {"choices": ["no", "{another}"]}]
    with pytest.raises(MissingData, match=r"no column another. It has: sentence, other, label"):
        next(build_task("plausible", spec, family_named("t5"), base).batches("test", size=1))


def test_a_label_that_is_no_choice_is_refused(base, spec, tmp_path):
    (tmp_path / "data/test.jsonl").write_text(json.dumps(ROWS[0] | {"label": 2}) + "\n")
    with pytest.raises(ConfigError, match=r"example 0 of the split 'test' has the label 2, expected 0 to 1"):
        next(build_task("plausible", spec, family_named("t5"), base).batches("test", size=1))


def test_missing_and_empty_splits_are_refused(task):
    with pytest.raises(MissingData, match=r"no split 'train'. It has: test"):
        task.size("train")
    with pytest.raises(MissingData, match="no examples"):
        next(task.batches("test", size=1, limit=0))


def test_many_questions_are_scored_in_parts_as_all_at_once(task, module, t5_folder, monkeypatch):
    monkeypatch.setattr("fusionbench.tasks.choices.PART", 4)
    (batch,) = task.batches("test", size=3)
    with torch.no_grad():
        scores = task.bind(module)(batch)
    torch.testing.assert_close(scores, theirs(t5_folder), atol=1e-4, rtol=1e-4)


def test_wordings_are_given_or_named_and_taken_from_the_first_on(spec, base):
    def built(**options):
        return build_task("plausible", {**spec, "options": options}, family_named("t5"), base)

    assert len(built(prompts="rte").wordings) == 10
    assert [wording.name for wording in built(prompts="rte", first=2).wordings] == [
        "MNLI crowdsource", "guaranteed true",
    ]  # fmt: skip
    assert (built(prompts="cb").choices, built(wordings=WORDINGS, first=1).choices) == (3, 2)
    for wrong in ({}, {"prompts": "rte", "wordings": WORDINGS}):
        with pytest.raises(ConfigError, match=r"needs options.wordings, or options.prompts"):
            built(**wrong)


def test_a_row_for_which_a_wording_offers_other_choices_is_refused(tmp_path, base):
    (tmp_path / "endings").mkdir()
    row = {"activity_label": "a", "ctx_a": "a", "ctx_b": "b", "ctx": "a b", "endings": ["yes", "no"], "label": "0"}
    (tmp_path / "endings" / "test.jsonl").write_text(json.dumps(row) + "\n")
    document = {"kind": "choices", "dataset": str(tmp_path / "endings"), "options": {"prompts": "hellaswag"}}
    task = build_task("endings", document, family_named("t5"), base)
    with pytest.raises(ConfigError, match=r"offers 2 choices \(yes \| no\), expected 4"):
        next(task.batches("test", size=1))


def test_accuracy_is_of_one_wording(base, spec, module):
    spec["metrics"] = ["accuracy"]
    with pytest.raises(ConfigError, match=r"no metric named 'accuracy' of the task plausible\. .*median_accuracy"):
        build_task("plausible", spec, family_named("t5"), base)

    class Fused:
        def for_task(self, one):
            return one.bind(module)

    found = {}
    for metric in ("accuracy", "median_accuracy"):
        options = {"wordings": WORDINGS, "first": 1}
        task = build_task("plausible", {**spec, "options": options, "metrics": [metric]}, family_named("t5"), base)
        found[metric] = evaluate(Fused(), task).scores[metric]
    assert found["accuracy"] == found["median_accuracy"]
    with pytest.raises(ConfigError, match="no metric named 'matthews'"):
        build_task("plausible", {**spec, "metrics": ["matthews"]}, family_named("t5"), base)


def test_what_such_a_task_makes_nothing_of_is_not_passed_over(base, spec):
    with pytest.raises(ConfigError, match="of the kind 'choices', which takes no class_names, templates"):
        build_task("plausible", {**spec, "templates": ["a {}"], "class_names": ["a"]}, family_named("t5"), base)
