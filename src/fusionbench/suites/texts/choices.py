"""The fifteen tasks of generated questions with given answers, in the columns of the data sets of TIES and (IA)³.

They stand in for those sets where there is no network, so that the wordings of `presets/wordings` apply unchanged; each
is named by what it asks. Records are made of the seed alone, without identifiers and notes of how they were made.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusionbench.suites.texts import choice_pairs, stories
from fusionbench.suites.texts.tasks import SplitName, draw_splits

ChoiceRecord = dict[str, Any]
"""One example in the columns of the data set that it stands in for."""


@dataclass(frozen=True, slots=True)
class ChoiceKind:
    """A task of generated questions with given answers.

    Attributes:
        name: what it asks.
        wordings: name of the list of wordings that apply to it.
        choices: how many answers are given.
        draw: from a generator and the number of the right choice to a record.
        said: the texts of a record that are not its answers, as they are before a wording asks about them.
    """

    name: str
    wordings: str
    choices: int
    draw: Callable[[np.random.Generator, int], ChoiceRecord]
    said: Callable[[ChoiceRecord], tuple[str, ...]]


def _said(*columns: str) -> Callable[[ChoiceRecord], tuple[str, ...]]:
    return lambda record: tuple(record[column] for column in columns)


def _story(record: ChoiceRecord) -> tuple[str, ...]:
    return (" ".join(record[f"input_sentence_{number}"] for number in range(1, 5)),)


def _meant(record: ChoiceRecord) -> tuple[str, ...]:
    return record["text"], f"{record['span2_text']} is {record['span1_text']}"


def _happened(record: ChoiceRecord) -> tuple[str, ...]:
    return (f"{record['premise']} {'because' if record['question'] == 'cause' else 'so'}",)


_FOLLOWS = _said("premise", "hypothesis")

CHOICES: Mapping[str, ChoiceKind] = {
    kind.name: kind
    for kind in (
        ChoiceKind("rewording", "paws", 2, choice_pairs.rewording, _said("sentence1", "sentence2")),
        ChoiceKind("science", "qasc", 8, stories.science, _said("fact1", "fact2", "question")),
        ChoiceKind("comparison", "quartz", 2, stories.comparison, _said("para", "question")),
        ChoiceKind("ending", "story_cloze", 2, stories.ending, _story),
        ChoiceKind("response", "wiki_qa", 2, choice_pairs.response, _said("question", "answer")),
        ChoiceKind("blank", "winogrande", 2, stories.blank, _said("sentence")),
        ChoiceKind("pronoun", "wsc", 2, stories.pronoun, _meant),
        ChoiceKind("consequence", "rte", 2, choice_pairs.consequence, _FOLLOWS),
        ChoiceKind("commitment", "cb", 3, choice_pairs.commitment, _FOLLOWS),
        ChoiceKind("sense", "wic", 2, choice_pairs.sense, _said("sentence1", "sentence2")),
        ChoiceKind("cause", "copa", 2, stories.cause, _happened),
        ChoiceKind("continuation", "hellaswag", 4, stories.continuation, _said("ctx")),
        ChoiceKind("round1", "anli", 3, choice_pairs.round1, _FOLLOWS),
        ChoiceKind("round2", "anli", 3, choice_pairs.round2, _FOLLOWS),
        ChoiceKind("round3", "anli", 3, choice_pairs.round3, _FOLLOWS),
    )
}
"""By name: the seven of TIES first."""


def make_choice_records(
    name: str, *, seed: int, train: int, validation: int, test: int
) -> dict[SplitName, list[ChoiceRecord]]:
    """Return a task's splits, disjoint in what is said, each with all labels equally often (±1), in random order.

    Args:
        name: of the task, a key of `CHOICES`.
        seed: of everything.
        train: examples to train on.
        validation: examples to choose by.
        test: examples to report on.

    Raises:
        ValueError: where there are not so many different texts.
    """
    kind = CHOICES[name]

    def texts(record: ChoiceRecord) -> Hashable:
        return tuple(sorted(kind.said(record)))

    counts: dict[SplitName, int] = {"train": train, "validation": validation, "test": test}
    return draw_splits(name, kind.draw, texts, outcomes=kind.choices, seed=seed, counts=counts)
