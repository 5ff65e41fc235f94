import numpy as np
import pytest

from fusionbench.suites.mini.t5_mixture import Pretext, alias_question, all_texts, corrupted
from fusionbench.suites.mini.t5_recipe import Mixture
from fusionbench.suites.mini.t5_words import END, make_tokenizer, vocabulary
from fusionbench.suites.texts import KINDS, make_records

FIRST = 100
NAMES = ("inference", "similarity")


@pytest.mark.parametrize("seed", range(20))
def test_a_corrupted_text_and_its_answer_make_the_text_again(seed):
    text = [*range(3, 3 + 6 + seed), END]
    example = corrupted(text, np.random.default_rng(seed), FIRST)
    read, written = example["input_ids"], example["label"]
    assert read[-1] == written[-1] == END
    spans: dict[int, list[int]] = {}
    for token in written[:-1]:
        if token >= FIRST:
            spans[token] = []
        else:
            spans[list(spans)[-1]].append(token)
    again = [word for token in read[:-1] for word in (spans[token] if token >= FIRST else [token])]
    assert again == text[:-1]
    assert spans
    assert list(spans) == [token for token in read if token >= FIRST]


@pytest.fixture(scope="module")
def made():
    records = {name: make_records(name, seed=0, train=60, validation=2, test=2)["train"] for name in NAMES}
    tokenizer = make_tokenizer(vocabulary(all_texts(records)))
    return Pretext.of(records, tokenizer), records, tokenizer


def draw(made, mixture, count=2000, seed=0):
    pretext, _, tokenizer = made
    first = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    examples = pretext.draw(np.random.default_rng(seed), count, mixture, first)
    return [
        tuple(tokenizer.decode(example[key], skip_special_tokens=False) for key in ("input_ids", "label"))
        for example in examples
    ]


def test_questions_in_the_other_form_are_always_answered_rightly_and_by_no_word_of_a_prompt(made):
    _, records, _ = made
    words = {0: "alpha", 1: "beta", 2: "gamma", 3: "delta", 4: "epsilon", 5: "zeta"}
    right = {alias_question(name, record): words[int(record["label"])] for name in NAMES for record in records[name]}
    for question, answer in draw(made, Mixture(aliases=1.0, prompts=0.0), 200):
        assert answer == f"{right[question.removesuffix('</s>')]}</s>"


def test_so_many_prompts_are_answered_rightly_as_the_recipe_says_and_the_others_by_another_answer(made):
    from fusionbench.suites.mini.t5_mixture import prompt_of

    _, records, _ = made
    right = {
        prompt_of(name).question(record): prompt_of(name).answer(record["label"])
        for name in NAMES
        for record in records[name]
    }
    drawn = draw(made, Mixture(aliases=0.0, prompts=1.0, right=0.6))
    correct = [answer == f"{right[question.removesuffix('</s>')]}</s>" for question, answer in drawn]
    assert np.mean(correct) == pytest.approx(0.6, abs=0.04)
    answers = {answer for _, answer in drawn}
    assert answers == {f"{word}</s>" for word in ("entailment", "neutral", "contradiction")} | {
        f"{score}.0</s>" for score in range(6)
    }


def test_the_shares_are_the_recipes(made):
    drawn = draw(made, Mixture(aliases=0.5, prompts=0.3))
    kinds = [
        "alias" if question.startswith(NAMES) else "text" if "<extra_id_0>" in question else "prompt"
        for question, _ in drawn
    ]
    shares = [kinds.count(kind) / len(kinds) for kind in ("alias", "prompt", "text")]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.04)


def test_a_seed_draws_the_same_again_and_another_does_not(made):
    mixture = Mixture()
    assert draw(made, mixture, 50) == draw(made, mixture, 50)
    assert draw(made, mixture, 50) != draw(made, mixture, 50, seed=1)


def test_every_task_has_a_prompt_and_words_for_its_labels():
    from fusionbench.suites.mini.t5_mixture import prompt_of

    for name, kind in KINDS.items():
        targets = prompt_of(name).targets
        assert len(targets or ()) == len(kind.label_names)
