"""Questions with answers to choose from: which ending, which cause, who does such things, what follows from a law?"""

from typing import Any

import numpy as np

from fusionbench.suites.texts.clauses import chance, other, pick
from fusionbench.suites.texts.lexicon import KINDS, PEOPLE, PLACES, THINGS, TIMES
from fusionbench.suites.texts.situations import (
    ACTIVITIES,
    CAUSES,
    COMPARATIVES,
    DEEDS,
    FEELINGS,
    LAWS,
    MEETINGS,
    MOODS,
    POWERS,
    PROPERTIES,
)

LETTERS = "ABCDEFGH"
PRONOUNS = ("he", "she")


def science(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return two facts and a question that both answer together, one of eight things, as QASC has them."""
    things = [THINGS[int(number)] for number in rng.permutation(len(THINGS))[: len(LETTERS)]]
    decoy = other(rng, range(len(things)), label)
    has, lacks = (PROPERTIES[int(number)] for number in rng.permutation(len(PROPERTIES))[:2])
    power = pick(rng, POWERS)
    known = [f"the {things[label]} is {has}", f"the {things[decoy]} is {lacks}"]
    return {
        "question": f"what {power} ?",
        "choices": {"text": things, "label": list(LETTERS)},
        "answerKey": LETTERS[label],
        "fact1": " and ".join(known if chance(rng, 0.5) else known[::-1]),
        "fact2": f"what is {has} {power}",
    }


def comparison(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return a law with its reverse, and a question of what it says, as QuaRTz has them."""
    cause, thing = pick(rng, LAWS), pick(rng, THINGS)
    pair = pick(rng, COMPARATIVES)
    answers = list(pair if chance(rng, 0.5) else pair[::-1])
    amounts = ["more", "less"] if chance(rng, 0.5) else ["less", "more"]
    # The given amount leads to the right answer, the other amount to the other answer.
    law = f"{amounts[0]} {cause} makes the {thing} {answers[label]}"
    opposite = f"{amounts[1]} {cause} makes the {thing} {answers[1 - label]}"
    said = [law, opposite] if chance(rng, 0.5) else [opposite, law]
    question = pick(
        rng,
        (
            f"with {amounts[0]} {cause} the {thing} becomes _____ ?",
            f"the {pick(rng, PEOPLE)} gives the {thing} {amounts[0]} {cause} . it becomes",
        ),
    )
    return {
        "question": question,
        "choices": {"text": answers, "label": ["A", "B"]},
        "answerKey": LETTERS[label],
        "para": " and ".join(said) + " .",
    }


def ending(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return four sentences and two endings, as the Story Cloze has them: last mood, or what is paid for, decides."""
    word, where, when = pick(rng, PRONOUNS), pick(rng, PLACES), pick(rng, TIMES)
    wanted = pick(rng, THINGS)
    found = other(rng, [thing for things in KINDS.values() if wanted not in things for thing in things])
    story = [f"the {pick(rng, PEOPLE)} wanted {_one(wanted)} .", f"{word} was {where} {when} ."]
    if chance(rng, 0.5):
        last = int(rng.integers(2))
        story += [
            f"at first {word} was {pick(rng, MOODS[1 - last])} .",
            f"in the end {word} was {pick(rng, MOODS[last])} .",
        ]
        right, wrong = (f"{word} {pick(rng, FEELINGS[mood])}" for mood in (last, 1 - last))
    else:
        bought, left = (wanted, found) if chance(rng, 0.5) else (found, wanted)
        story += [f"there was {_one(wanted)} and {_one(found)} .", f"{word} paid for the {bought} ."]
        right, wrong = (f"{word} took the {thing} home ." for thing in (bought, left))
    endings = (right, wrong) if label == 0 else (wrong, right)
    return {
        **{f"input_sentence_{number}": text for number, text in enumerate(story, start=1)},
        **{f"sentence_quiz{number}": text for number, text in enumerate(endings, start=1)},
        "answer_right_ending": label + 1,
    }


def _one(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def blank(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return a sentence with a blank for one of two people, as WinoGrande has them."""
    people, met, deed, meant = _meeting(rng)
    options = [people[meant], people[1 - meant]] if label == 0 else [people[1 - meant], people[meant]]
    return {
        "sentence": f"{met} because _ {deed} .",
        "option1": f"the {options[0]}",
        "option2": f"the {options[1]}",
        "answer": str(label + 1),
    }


def pronoun(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return a sentence with a pronoun, and a person who is meant by it (1) or not (0), as WSC has them."""
    people, met, deed, meant = _meeting(rng)
    word, named = pick(rng, PRONOUNS), people[meant if label else 1 - meant]
    text = f"{met} because {word} {deed} ."
    words = text.split(" ")
    return {
        "text": text,
        "span1_index": words.index(named) - 1,
        "span2_index": words.index("because") + 1,
        "span1_text": f"the {named}",
        "span2_text": word,
        "label": label,
    }


def _meeting(rng: np.random.Generator) -> tuple[tuple[str, str], str, str, int]:
    """Return two people, how they met, a deed of one of them, and the number of that one."""
    first = pick(rng, PEOPLE)
    people = (first, other(rng, PEOPLE, first))
    meant = int(rng.integers(2))
    met = " ".join([f"the {first} {pick(rng, MEETINGS)} the {people[1]}", *_circumstances(rng)])
    return people, met, pick(rng, DEEDS[people[meant]]), meant


def _circumstances(rng: np.random.Generator) -> list[str]:
    return [pick(rng, words) for words in (PLACES, TIMES) if chance(rng, 0.5)]


def cause(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return what happened, and its cause or its effect beside another one, as COPA has them."""
    known = int(rng.integers(len(CAUSES)))
    wrong = other(rng, range(len(CAUSES)), known)
    asked = int(rng.integers(2))
    who = pick(rng, PEOPLE)
    kind = pick(rng, ("", "", "old ", "new ", "small "))
    premise = CAUSES[known][1 - asked].format(who=kind + who)
    choices = [f"{CAUSES[number][asked].format(who=who)} ." for number in (known, wrong)]
    first, second = choices if label == 0 else choices[::-1]
    return {
        "premise": f"{premise} {pick(rng, TIMES)} ." if chance(rng, 0.8) else f"{premise} .",
        "choice1": first,
        "choice2": second,
        "question": ("cause", "effect")[asked],
        "label": label,
    }


def continuation(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return what somebody has, and four things to do next: the activity decides, as HellaSwag has them."""
    activities = [list(ACTIVITIES)[int(number)] for number in rng.permutation(len(ACTIVITIES))[:4]]
    right, who, word = activities[label], pick(rng, PEOPLE), pick(rng, PRONOUNS)
    first = f"the {who} has {pick(rng, ACTIVITIES[right][0])} {pick(rng, PLACES)} ."
    if chance(rng, 0.5):
        first = f"{pick(rng, TIMES)} {first}"
    second = pick(rng, (word, f"then {word}", f"the {who}"))
    return {
        "activity_label": right,
        "ctx_a": first,
        "ctx_b": second,
        "ctx": f"{first} {second}",
        "endings": [pick(rng, ACTIVITIES[activity][1]) for activity in activities],
        "label": str(label),
    }
