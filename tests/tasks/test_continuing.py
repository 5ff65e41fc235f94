"""Questions and choices put to a decoder-only model, against transformers' own logits and generate."""

import json

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from fusionbench.errors import CheckpointError
from fusionbench.families import family_named, load_module
from fusionbench.tasks import build_task
from fusionbench.weights.sources import open_source
from tiny_causal_lm import make_causal_lm

FAMILY = family_named("causal_lm")
ROWS = [
    {"sentence": "good film", "other": "bad day", "label": 1},
    {"sentence": "a bad day", "other": "yes", "label": 0},
    {"sentence": "film", "other": "maybe maybe no", "label": 1},
]
WORDING = {"template": "Is it {sentence} ?", "choices": ["no", "{other}"]}
PROMPT = {"template": "Is it {sentence} ?", "targets": ["no no", "yes"], "tokens": 5}


@pytest.fixture
def base(cache, causal_lm_folder):
    return open_source(causal_lm_folder)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(tmp_path / "data")


@pytest.fixture
def theirs(causal_lm_folder):
    return LlamaForCausalLM.from_pretrained(causal_lm_folder), AutoTokenizer.from_pretrained(causal_lm_folder)


def log_probability(theirs, question: str, answer: str) -> float:
    """Σ log p of an answer's tokens and of the end after it, given `</s>` and the question."""
    model, tokenizer = theirs
    asked = tokenizer(question)["input_ids"]
    said = [*tokenizer(answer, add_special_tokens=False)["input_ids"], 1]
    with torch.no_grad():
        log = model(torch.tensor([asked + said])).logits[0].log_softmax(-1)
    return sum(log[len(asked) - 1 + place, token].item() for place, token in enumerate(said))


def test_choices_are_scored_by_their_log_probability_after_the_question(base, data, theirs):
    task = build_task(
        "plausible", {"kind": "choices", "dataset": data, "options": {"wordings": [WORDING]}}, FAMILY, base
    )
    (batch,) = task.batches("test", size=3)
    with torch.no_grad():
        scores = task.bind(load_module(FAMILY, base))(batch)
    expected = [
        [
            log_probability(theirs, WORDING["template"].format(**row), choice.format(**row))
            for choice in WORDING["choices"]
        ]
        for row in ROWS
    ]
    torch.testing.assert_close(scores[:, 0], torch.tensor(expected), atol=1e-3, rtol=1e-4)


def test_the_loss_is_of_the_answer_and_its_end_alone(base, data, theirs):
    task = build_task("asked", {"kind": "text_to_text", "dataset": data, "options": PROMPT}, FAMILY, base)
    (batch,) = task.batches("test", size=3)
    with torch.no_grad():
        loss = task.loss(task.bind(load_module(FAMILY, base)), batch)
    logs = [log_probability(theirs, PROMPT["template"].format(**row), PROMPT["targets"][row["label"]]) for row in ROWS]
    # yes and its end, no no and its end, yes and its end
    assert loss.item() == pytest.approx(-sum(logs) / (2 + 3 + 2), rel=1e-4)


def test_answers_are_those_of_greedy_generate_and_right_where_they_match_word_for_word(base, data, theirs):
    model, tokenizer = theirs
    module = load_module(FAMILY, base)
    asked = tokenizer([PROMPT["template"].format(**row) for row in ROWS])["input_ids"]
    written = [
        model.generate(torch.tensor([line]), max_new_tokens=5, do_sample=False)[0, len(line) :] for line in asked
    ]
    answers = tokenizer.batch_decode(written, skip_special_tokens=True)
    said = PROMPT | {"targets": [answers[1], answers[0]]}
    task = build_task("asked", {"kind": "text_to_text", "dataset": data, "options": said}, FAMILY, base)
    (batch,) = task.batches("test", size=3)
    with torch.no_grad():
        rows = task.rows(task.bind(module), batch)
    assert rows["correct"].tolist() == [True, True, answers[2] == answers[0]]
    assert len(set(answers)) > 1


def test_the_objective_is_the_entropy_of_the_first_word_of_the_answer(base, data, theirs):
    model, tokenizer = theirs
    task = build_task("asked", {"kind": "text_to_text", "dataset": data, "options": PROMPT}, FAMILY, base)
    (batch,) = task.batches("test", size=3, labels=False)
    with torch.no_grad():
        found = task.objective(task.bind(load_module(FAMILY, base)), batch)
        entropies = []
        for row in ROWS:
            asked = tokenizer(PROMPT["template"].format(**row), return_tensors="pt")["input_ids"]
            p = model(asked).logits[0, -1].softmax(-1)
            entropies.append(-(p * p.log()).sum().item())
    assert found.item() == pytest.approx(sum(entropies) / 3, rel=1e-4)


def test_the_mask_of_the_models_own_answers_covers_what_is_run(base, data):
    task = build_task("asked", {"kind": "text_to_text", "dataset": data, "options": PROMPT}, FAMILY, base)
    module = load_module(FAMILY, base)
    seen = []
    module.model.layers[1].register_forward_hook(lambda _, given, made: seen.append(given[0].shape[:2]))
    (batch,) = task.batches("test", size=3, labels=False)
    one = task.written(task.bind(module), batch)
    task.bind(module)(one)
    assert FAMILY.token_mask(one).shape == seen[-1]


def test_the_mask_of_choices_covers_each_choice_behind_its_question(base, data):
    described = {"kind": "choices", "dataset": data, "options": {"wordings": [WORDING, WORDING]}}
    task = build_task("plausible", described, FAMILY, base)
    module = load_module(FAMILY, base)
    seen = []
    module.model.layers[1].register_forward_hook(lambda _, given, made: seen.append(given[0].shape[:2]))
    for labels in (True, False):
        (batch,) = task.batches("test", size=3, labels=labels)
        with torch.no_grad():
            task.bind(module)(batch)
        mask = FAMILY.token_mask(batch)
        assert mask.shape == seen[-1]
        # </s> Is it … ? of 6, 7 and 5 tokens, then the words of the choice, whose end is predicted and not read
        assert mask.sum(1).tolist() == [7, 8] * 2 + [8, 8] * 2 + [6, 8] * 2


def test_answers_end_with_one_end_whatever_the_tokenizer_adds_and_are_cut(cache, tmp_path):
    for form in ("$A", "</s> $A", "$A </s>"):
        make_causal_lm(tmp_path / form.replace("/", ""), form=form)
        codec = FAMILY.text_codec(open_source(tmp_path / form.replace("/", "")))
        (answer,) = codec.encode_answers(["good day"], 8)
        assert answer[-1] == 1
        assert answer.count(1) == 1
        assert len(answer) == 3
        assert codec.encode_answers(["good day"], 2) == [answer[:2]]
    plain = FAMILY.text_codec(open_source(tmp_path / "$A"))
    assert plain.encode([""], 8) == [[1]]


def test_without_a_padding_token_the_end_fills_batches(cache, tmp_path):
    make_causal_lm(tmp_path / "base", pad_token_id=None)
    assert FAMILY.text_codec(open_source(tmp_path / "base")).pad == 1


def test_a_tokenizer_without_an_end_is_refused(cache, tmp_path):
    make_causal_lm(tmp_path / "base")
    place = tmp_path / "base/tokenizer_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "eos_token": None}))
    with pytest.raises(CheckpointError, match="no token that ends a text"):
        FAMILY.text_codec(open_source(tmp_path / "base"))
