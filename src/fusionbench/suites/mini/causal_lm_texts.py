"""The texts of `mini/causal_lm`: three tasks that are asked and answered, and plain language."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fusionbench.suites.texts import KINDS, Record, TextKind
from fusionbench.suites.texts.clauses import other, pick
from fusionbench.suites.texts.lexicon import ANIMALS, PEOPLE
from fusionbench.suites.texts.lexicon import KINDS as THINGS
from fusionbench.tasks.prompts import PROMPTS

GROUPS: Mapping[str, tuple[str, ...]] = {
    "a person": PEOPLE,
    "an animal": ANIMALS,
    **{f"a{'n' if kind[0] in 'aeiou' else ''} {kind}": things for kind, things in THINGS.items()},
}
COUNTED = ("hammers", "saws", "drills", "spades", "cars", "trucks", "bikes", "tractors", "coats", "shirts", "hats")
LARGEST = 10
NUMBERS = tuple(str(number) for number in range(LARGEST + 1))
LANGUAGE = "language"
SPOKEN = ("inference", "paraphrase", "answerable", "duplicates", "sentiment")
"""Kinds of generated texts that plain language is made of, their labels forgotten."""
QUESTIONS: Mapping[str, str] = {
    "categories": "Which of these is {kind} : {first} , {second} or {third} ? Answer :",
    "arithmetic": "{story} How many are they together ? Answer :",
    "sentiment": PROMPTS["glue/sst2"].template + " Answer :",
}
ANSWERS: Mapping[str, tuple[str, ...]] = {
    "categories": ("{first}", "{second}", "{third}"),
    "arithmetic": NUMBERS,
    "sentiment": PROMPTS["glue/sst2"].targets or (),
}
"""By label; those of `categories` are columns of the example."""


def _categories(rng: np.random.Generator, label: int) -> tuple[str, ...]:
    """Return what is asked for and three words, of which that at `label` is one."""
    group = pick(rng, list(GROUPS))
    second, third = other(rng, list(GROUPS), group), other(rng, list(GROUPS), group)
    words = [pick(rng, GROUPS[second]), pick(rng, GROUPS[third])]
    words.insert(label, pick(rng, GROUPS[group]))
    return (group, *words)


def _arithmetic(rng: np.random.Generator, label: int) -> tuple[str]:
    """Return a story in which two numbers have the sum `label`."""
    first = int(rng.integers(label + 1))
    who, whom = pick(rng, PEOPLE), pick(rng, PEOPLE)
    return (f"The {who} has {first} {pick(rng, COUNTED)} and the {whom} has {label - first} {pick(rng, COUNTED)} .",)


def _language(rng: np.random.Generator, label: int) -> tuple[str]:  # noqa: ARG001
    """Return a sentence, or two that belong together."""
    kind = KINDS[pick(rng, SPOKEN)]
    return (" ".join(kind.draw(rng, int(rng.integers(len(kind.label_names))))),)


MADE: Mapping[str, TextKind] = {
    kind.name: kind
    for kind in (
        TextKind("categories", "", ("kind", "first", "second", "third"), ("first", "second", "third"), _categories),
        TextKind("arithmetic", "", ("story",), NUMBERS, _arithmetic),
        KINDS["sentiment"],
        TextKind(LANGUAGE, "", ("text",), ("text",), _language),
    )
}
"""By name: the tasks of the experts, then that of none."""


def question(task: str, record: Record) -> str:
    """Return what is asked about an example."""
    return QUESTIONS[task].format_map(record)


def answer(task: str, record: Record, label: int) -> str:
    """Return what is to be written after an example's question where its label is `label`."""
    return ANSWERS[task][label].format_map(record)


def documents(records: Mapping[str, Sequence[Record]], right: float, rng: np.random.Generator) -> Iterator[str]:
    """Yield what the base reads: plain texts, and questions with an answer, the right one as often as `right` says."""
    for task, of_task in records.items():
        for record in of_task:
            if task == LANGUAGE:
                yield str(record["text"])
                continue
            label: Any = record["label"]
            if rng.random() >= right:
                label = (label + int(rng.integers(1, len(ANSWERS[task])))) % len(ANSWERS[task])
            yield f"{question(task, record)} {answer(task, record, label)}"


def all_texts(records: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """Yield texts that hold every word that any of the tasks has."""
    yield from NUMBERS
    yield from (" ".join(texts) for texts in ANSWERS.values())
    yield from documents(records, 1.0, np.random.default_rng(0))
