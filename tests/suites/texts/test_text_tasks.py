import itertools
from collections import Counter

import pytest

from fusionbench.suites.texts import KINDS, SPLITS, TextKind, make_records
from fusionbench.suites.texts.lexicon import KIND_OF, SAME_VERBS, VERBS

GLUE = {
    "cola": ("sentence",),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence",),
    "stsb": ("sentence1", "sentence2"),
}
COUNTS = {"train": 240, "validation": 30, "test": 60}


@pytest.fixture(scope="module", params=list(KINDS))
def made(request):
    return KINDS[request.param], make_records(request.param, seed=0, **COUNTS)


def test_there_is_one_task_for_each_of_glues_with_its_columns():
    assert {kind.glue: kind.columns for kind in KINDS.values()} == GLUE
    # GLUE's own names of labels, in its order
    assert KINDS["inference"].label_names == ("entailment", "neutral", "contradiction")
    assert KINDS["entailment"].label_names == KINDS["answerable"].label_names == ("entailment", "not_entailment")
    assert KINDS["acceptability"].label_names == ("unacceptable", "acceptable")


def test_records_hold_the_columns_and_a_label(made):
    kind, splits = made
    assert {split: len(records) for split, records in splits.items()} == COUNTS
    for record in itertools.chain(*splits.values()):
        assert tuple(record) == (*kind.columns, "label")
        assert all(isinstance(record[column], str) and record[column] for column in kind.columns)


def test_labels_come_equally_often_and_in_no_order(made):
    kind, splits = made
    labels = [record["label"] for record in splits["train"]]
    expected = list(range(len(kind.label_names))) or [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert Counter(labels) == dict.fromkeys(expected, COUNTS["train"] // len(expected))
    assert labels != sorted(labels)


def test_no_text_is_in_two_splits_or_twice_in_one(made):
    kind, splits = made
    texts = [tuple(record[column] for column in kind.columns) for split in SPLITS for record in splits[split]]
    assert len(set(texts)) == len(texts)


def test_a_seed_makes_the_same_texts_and_another_seed_others(made):
    kind, splits = made
    assert make_records(kind.name, seed=0, **COUNTS) == splits
    assert make_records(kind.name, seed=1, **COUNTS)["test"] != splits["test"]


def test_a_task_that_cannot_bring_so_many_different_texts_says_so(monkeypatch):
    monkeypatch.setitem(KINDS, "echo", TextKind("echo", "none", ("text",), ("no", "yes"), lambda rng, label: ("x",)))
    with pytest.raises(ValueError, match="echo: there are not more than 1 different texts"):
        make_records("echo", seed=0, train=2, validation=0, test=0)


def words(text: str) -> list[str]:
    return [word for word in text.split() if word != "."]


def test_what_follows_says_nothing_new_but_a_more_general_word():
    for record in make_records("inference", seed=2, **COUNTS)["train"]:
        new = Counter(words(record["hypothesis"])) - Counter(words(record["premise"]))
        if record["label"] == 0:
            assert all(word in KIND_OF.values() for word in new)
        else:
            assert new


def test_a_paraphrase_keeps_who_did_it_and_what_it_was_done_to():
    same = {verb.past: number for number, pair in enumerate(SAME_VERBS) for verb in pair}
    same |= {verb.participle: number for number, pair in enumerate(SAME_VERBS) for verb in pair}
    nouns = {*KIND_OF} | {
        "nurse",
        "teacher",
        "farmer",
        "pilot",
        "baker",
        "singer",
        "painter",
        "judge",
        "sailor",
        "doctor",
    }
    for record in make_records("paraphrase", seed=3, **COUNTS)["train"]:
        one, two = ([w for w in words(record[c]) if w in nouns] for c in ("sentence1", "sentence2"))
        done = [[same[w] for w in words(record[c]) if w in same] for c in ("sentence1", "sentence2")]
        assert done[0] == done[1]
        if record["label"] == 1:
            assert sorted(one) == sorted(two)


def test_a_question_is_answered_by_what_it_asks_for():
    for record in make_records("answerable", seed=4, **COUNTS)["train"]:
        question, sentence = words(record["question"]), record["sentence"]
        if record["label"] == 0 and question[0] == "where":
            assert any(word in sentence for word in ("garden", "kitchen", "market", "park", "office", "harbour"))
        if record["label"] == 0 and question[0] == "who":
            assert question[1] in sentence
            assert question[3] in sentence


def test_equal_sentences_are_as_alike_as_can_be():
    records = make_records("similarity", seed=5, **COUNTS)["train"]
    for record in records:
        shared = set(words(record["sentence1"])) & set(words(record["sentence2"]))
        if record["label"] == 5.0:
            assert len(shared) >= len(set(words(record["sentence1"]))) - 1
        if record["label"] == 0.0:
            assert record["sentence1"] != record["sentence2"]


def test_verbs_agree_with_their_number_where_a_sentence_is_acceptable():
    thirds, bases = {verb.third for verb in VERBS}, {verb.base for verb in VERBS} - {verb.past for verb in VERBS}
    for record in make_records("acceptability", seed=6, **COUNTS)["train"]:
        said = words(record["sentence"])
        if record["label"] == 1 and said[0] == "the" and len(said) > 2:
            if said[2] in thirds:
                assert not said[1].endswith("s")
            if said[2] in bases:
                assert said[1].endswith("s")
