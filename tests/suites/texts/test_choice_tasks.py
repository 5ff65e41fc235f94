import itertools
from collections import Counter

import numpy as np
import pytest

from fusionbench.suites.texts import SPLITS, situations
from fusionbench.suites.texts.choices import CHOICES, make_choice_records
from fusionbench.suites.texts.lexicon import KIND_OF, PEOPLE
from fusionbench.tasks.wordings import label_of, wording_list

COUNTS = {"train": 240, "validation": 24, "test": 48}
WORDS = 90
"""The longest question."""
COLUMNS = {
    "paws": {"sentence1", "sentence2", "label"},
    "qasc": {"question", "choices", "answerKey", "fact1", "fact2"},
    "quartz": {"question", "choices", "answerKey", "para"},
    "story_cloze": {*(f"input_sentence_{n}" for n in (1, 2, 3, 4)), "sentence_quiz1", "sentence_quiz2"}
    | {"answer_right_ending"},
    "wiki_qa": {"question", "document_title", "answer", "label"},
    "winogrande": {"sentence", "option1", "option2", "answer"},
    "wsc": {"text", "span1_index", "span2_index", "span1_text", "span2_text", "label"},
    "rte": {"premise", "hypothesis", "label"},
    "cb": {"premise", "hypothesis", "label"},
    "wic": {"word", "sentence1", "sentence2", "start1", "start2", "end1", "end2", "label"},
    "copa": {"premise", "choice1", "choice2", "question", "label"},
    "hellaswag": {"activity_label", "ctx_a", "ctx_b", "ctx", "endings", "label"},
    "anli": {"premise", "hypothesis", "label"},
}


@pytest.fixture(scope="module")
def records():
    return {name: make_choice_records(name, seed=0, **COUNTS) for name in CHOICES}


@pytest.fixture(params=list(CHOICES))
def made(request, records):
    return CHOICES[request.param], records[request.param]


KNOWN = {name: wording_list(name) for name in COLUMNS}


def right(kind, record):
    return label_of(KNOWN[kind.wordings].label, record)


def test_the_tasks_are_those_of_ties_first():
    assert [kind.wordings for kind in CHOICES.values()] == [
        *("paws", "qasc", "quartz", "story_cloze", "wiki_qa", "winogrande", "wsc"),
        *("rte", "cb", "wic", "copa", "hellaswag", "anli", "anli", "anli"),
    ]


def test_records_have_the_columns_of_the_data_set_that_they_stand_in_for(made):
    kind, splits = made
    assert {split: len(found) for split, found in splits.items()} == COUNTS
    assert all(set(record) == COLUMNS[kind.wordings] for record in itertools.chain(*splits.values()))


def test_the_right_choice_stands_equally_often_at_each_place_in_no_order(made):
    kind, splits = made
    for split in SPLITS:
        labels = [right(kind, record) for record in splits[split]]
        assert Counter(labels) == dict.fromkeys(range(kind.choices), COUNTS[split] // kind.choices)
    labels = [right(kind, record) for record in splits["train"]]
    assert labels != sorted(labels)


def test_nothing_is_said_in_two_splits_or_twice_in_one(made):
    kind, splits = made
    said = [frozenset(kind.said(record)) for split in SPLITS for record in splits[split]]
    assert len(set(said)) == len(said)


def test_a_seed_makes_the_same_records_and_another_seed_others(made):
    kind, splits = made
    assert make_choice_records(kind.name, seed=0, **COUNTS) == splits
    assert make_choice_records(kind.name, seed=1, **COUNTS)["test"] != splits["test"]


def test_texts_are_lower_case_words_between_single_blanks(made):
    kind, splits = made
    for record in itertools.chain(*splits.values()):
        for text in kind.said(record):
            assert text == " ".join(text.lower().split())
            assert not any(word[-1] in ".?," for word in text.split() if len(word) > 1)


def test_every_wording_asks_briefly_and_gives_so_many_different_answers(made):
    kind, splits = made
    for record in splits["test"]:
        for wording in KNOWN[kind.wordings].wordings:
            question, answers = wording.question(record), wording.answers(record)
            assert 8 < len(question.split()) <= WORDS
            assert "{" not in question
            assert len(set(answers)) == len(answers) == kind.choices
            assert all(answers)


def test_the_drawn_number_is_the_right_choice():
    for kind in CHOICES.values():
        for label in range(kind.choices):
            assert right(kind, kind.draw(np.random.default_rng(label), label)) == label


@pytest.mark.parametrize("name", ["science", "comparison", "ending", "blank", "cause", "continuation"])
def test_no_answer_is_right_much_more_often_than_others_where_it_is_offered(name):
    kind, offered, correct = CHOICES[name], Counter(), Counter()
    wording = KNOWN[kind.wordings].wordings[0]
    for record in make_choice_records(name, seed=1, train=2000, validation=0, test=0)["train"]:
        # whoever it is about
        answers = [
            " ".join("who" if word in PEOPLE and name != "blank" else word for word in answer.split())
            for answer in wording.answers(record)
        ]
        offered.update(answers)
        correct[answers[right(kind, record)]] += 1
    often = [answer for answer in offered if offered[answer] >= 40]
    assert len(often) >= 10
    # five standard deviations of a fair draw
    chance = 1 / kind.choices
    assert all(abs(correct[a] / offered[a] - chance) < 5 * (chance * (1 - chance) / offered[a]) ** 0.5 for a in often)


def test_in_science_the_right_thing_has_the_property_that_the_second_fact_speaks_of(records):
    for record in records["science"]["train"]:
        _, _, has, *power = record["fact2"].split()
        assert record["question"] == f"what {' '.join(power)} ?"
        things = {clause.split()[3]: clause.split()[1] for clause in record["fact1"].split(" and ")}
        assert len(things) == 2
        assert record["choices"]["text"]["ABCDEFGH".index(record["answerKey"])] == things[has]
        assert set(things.values()) <= set(record["choices"]["text"])


def test_in_comparison_the_law_tells_the_direction(records):
    order = Counter()
    for record in records["comparison"]["train"]:
        clauses = record["para"].removesuffix(" .").split(" and ")
        law = {clause.split()[0]: clause.split()[-1] for clause in clauses}
        assert set(law) == {"more", "less"}
        amount = "more" if "more" in record["question"].split() else "less"
        answers = record["choices"]["text"]
        assert set(answers) == set(law.values())
        assert answers["AB".index(record["answerKey"])] == law[amount]
        order[clauses[0].startswith(amount)] += 1
    assert min(order[True], order[False]) > 60


def test_a_story_ends_as_its_last_mood_or_with_what_was_paid_for(records):
    good, kinds = {"happy", "proud", "cheerful", "glad"}, Counter()
    for record in records["ending"]["train"]:
        chosen = record[f"sentence_quiz{record['answer_right_ending']}"]
        last = record["input_sentence_4"].split()[-2]
        if "paid" in record["input_sentence_4"]:
            assert f" the {last} " in chosen
        else:
            assert any(word in chosen for word in ("smiled", "danced", "laughed")) == (last in good)
        kinds["paid" in record["input_sentence_4"]] += 1
    assert min(kinds[True], kinds[False]) > 60


DEEDS = {
    "bandaged a knee": "nurse",
    "taught a class": "teacher",
    "grew corn": "farmer",
    "flew a plane": "pilot",
    "sold bread": "baker",
    "sang a song": "singer",
    "mixed colours": "painter",
    "sat in court": "judge",
    "steered a boat": "sailor",
    "treated a fever": "doctor",
}
"""Who does what: one deed of each, as anybody knows it."""


def meant(sentence):
    met, deed = sentence.removesuffix(" .").split(" because ")
    found = [who for what, who in DEEDS.items() if deed.endswith(what)]
    assert all(who in met.split() for who in found)
    return f"the {found[0]}" if found else None


def test_everybody_has_deeds_of_their_own_that_no_pronoun_is_part_of():
    deeds = [deed for of_one in situations.DEEDS.values() for deed in of_one]
    assert set(situations.DEEDS) == set(PEOPLE)
    assert len(set(deeds)) == len(deeds) == 30
    assert not any("he" in deed for deed in deeds)


@pytest.mark.parametrize("name", ["blank", "pronoun"])
def test_who_does_it_is_the_first_as_often_as_the_second_in_many_circumstances(records, name):
    first, told, words = 0, 0, Counter()
    for record in records[name]["train"]:
        text = record["sentence"] if name == "blank" else record["text"]
        person = meant(text)
        people = [f"the {word}" for word in text.split() if word in PEOPLE]
        first, told = first + (person == people[0]), told + (person is not None)
        words.update(text.split())
    assert told > 60
    assert 0.3 < first / told < 0.7
    # places, times, ways to meet, and both pronouns
    assert {"garden", "market", "monday", "lunch", "met", "called", "wrote", "sat"} <= set(words)
    assert name == "blank" or min(words["he"], words["she"]) > 60


def test_a_blank_stands_for_the_person_who_does_such_things(records):
    known = [(record, meant(record["sentence"])) for record in records["blank"]["train"]]
    assert sum(person is not None for _, person in known) > 60
    for record, person in known:
        assert record["sentence"].split().count("_") == 1
        assert person in (None, record[f"option{record['answer']}"])


def test_a_pronoun_is_said_to_mean_the_person_who_does_such_things_or_the_other(records):
    for record in records["pronoun"]["train"]:
        words, first, second = record["text"].split(" "), record["span1_index"], record["span2_index"]
        assert " ".join(words[first : first + 2]) == record["span1_text"]
        assert words[second] == record["span2_text"] in ("he", "she")
        person = meant(record["text"])
        assert person is None or (person == record["span1_text"]) == bool(record["label"])
        # a wording puts the person wherever the letters of the pronoun stand behind it
        assert "he" not in " ".join(words[second + 1 :])


SENSES = {
    "bank": ({"money", "loan"}, {"river", "boat", "swam"}),
    "bat": ({"ball", "swung"}, {"flew", "cave", "wings"}),
    "pen": ({"signed", "ink", "wrote"}, {"pigs", "sheep"}),
    "match": ({"fire", "finger", "candle"}, {"won", "goal", "team"}),
    "club": ({"member", "members", "join"}, {"golf", "stone"}),
}


def test_a_word_has_the_same_sense_where_the_words_beside_it_are_of_one_sense(records):
    checked = 0
    for record in records["sense"]["train"]:
        for number in "12":
            assert record[f"sentence{number}"][record[f"start{number}"] : record[f"end{number}"]] == record["word"]
        if record["word"] in SENSES:
            found = [
                [bool(clues & set(record[f"sentence{number}"].split())) for clues in SENSES[record["word"]]]
                for number in "12"
            ]
            assert all(sorted(one) == [False, True] for one in found)
            assert (found[0] == found[1]) == bool(record["label"])
            checked += 1
    assert checked > 60


def test_the_verb_of_belief_and_a_denial_decide_what_a_speaker_is_committed_to(records):
    so = {"knows", "saw", "regrets", "proved"}
    not_so = {"lied", "pretended", "refuted", "wrongly"}
    seen = Counter()
    for record in records["commitment"]["train"]:
        verb, denied = record["premise"].split()[2], " not " in record["hypothesis"]
        expected = (1 if denied else 0) if verb in so else (0 if denied else 1) if verb in not_so else 2
        assert record["label"] == expected
        seen[expected, denied] += 1
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("cause", "effect"),
    [("forgot the umbrella", "got wet"), ("turned off the lamp", "became dark"), ("a joke", "laughed")],
)
def test_a_cause_is_chosen_for_its_effect_and_the_other_way_round(records, cause, effect):
    asked = Counter()
    for record in itertools.chain(*records["cause"].values()):
        given, wanted = (effect, cause) if record["question"] == "cause" else (cause, effect)
        if given in record["premise"]:
            assert wanted in record[f"choice{record['label'] + 1}"]
            assert wanted not in record[f"choice{2 - record['label']}"]
            asked[record["question"]] += 1
    assert sum(asked.values()) > 3


def test_a_description_goes_on_with_what_belongs_to_its_activity(records):
    clues = {"baking bread": ("dough", "loaf"), "catching fish": ("lake", "trout"), "planting a tree": ("hole", "root")}
    for record in records["continuation"]["train"]:
        assert record["ctx"] == f"{record['ctx_a']} {record['ctx_b']}"
        assert isinstance(record["label"], str)
        if record["activity_label"] in clues:
            fits = [any(clue in text for clue in clues[record["activity_label"]]) for text in record["endings"]]
            assert fits == [place == int(record["label"]) for place in range(4)]


def test_an_answer_is_right_where_it_says_the_place_or_person_that_is_asked_for(records):
    for record in records["response"]["train"]:
        asked = record["question"].split()
        places = ("garden", "kitchen", "market", "park", "office", "harbour")
        if record["label"] == 1 and asked[0] == "where":
            assert any(place in record["answer"] for place in places)
        if record["label"] == 1:
            assert f" {asked[-1]} " in record["answer"]
            assert asked[0] == "who" or f" {asked[3]} " in record["answer"]
        assert asked[-1] != "?"


def test_the_rounds_grow_in_length_and_turn_the_words_round(records):
    for name, sentences in (("round1", 1), ("round2", 2), ("round3", 2)):
        assert all(record["premise"].split().count(".") == sentences for record in records[name]["train"])
    turned = [record["hypothesis"] for record in records["round3"]["train"]]
    assert sum(" by the " in text for text in turned) > 60
    assert not any(" by the " in record["hypothesis"] for record in records["round2"]["train"])


@pytest.mark.parametrize("name", ["round1", "round2"])
def test_what_follows_says_nothing_new_but_a_more_general_word(records, name):
    for record in records[name]["train"]:
        new = set(record["hypothesis"].split()) - set(record["premise"].split())
        if record["label"] == 0:
            assert new <= set(KIND_OF.values())
        if record["label"] == 2 and "not" not in new and name == "round1":
            assert len(new) <= 1
