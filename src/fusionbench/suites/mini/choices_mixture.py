"""What the base of `mini/t5_choices` reads in its pretraining: `Pretext` of questions with given answers."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from fusionbench.suites.mini.choices_recipe import WORDINGS
from fusionbench.suites.mini.t5_mixture import Pretext, Tokens
from fusionbench.suites.texts.choices import CHOICES, ChoiceRecord
from fusionbench.tasks.wordings import label_of, wording_list


class Asked(NamedTuple):
    """A record in one of its task's wordings.

    Attributes:
        question: what is read.
        answers: to choose from.
        label: number of the right choice.
        said: the record's texts without any question.
    """

    question: str
    answers: tuple[str, ...]
    label: int
    said: tuple[str, ...]


def asked(task: str, record: ChoiceRecord) -> list[Asked]:
    """Return a record in the wordings that the suites ask."""
    known, said = wording_list(CHOICES[task].wordings), CHOICES[task].said(record)
    label = int(label_of(known.label, record))
    wordings = known.wordings[: max(WORDINGS.values())]
    return [Asked(wording.question(record), wording.answers(record), label, said) for wording in wordings]


def all_texts(rows: Sequence[Asked]) -> list[str]:
    """Return every text whose words the tokenizer must know."""
    return list(chain.from_iterable((one.question, *one.answers, *one.said) for one in rows))


def pretext_of(rows: Sequence[Asked], tokenizer: Any) -> Pretext:
    """Return what the base is trained on, as tokens: the wordings, and their texts; no form of its own."""

    def tokens(texts: Sequence[str]) -> list[Tokens]:
        found: list[Tokens] = tokenizer(list(texts))["input_ids"]
        return found

    return Pretext(
        prompts=tokens([one.question for one in rows]),
        questions=[],
        said=tokens(sorted({text for one in rows for text in one.said})),
        task=np.arange(len(rows)),
        label=np.array([one.label for one in rows]),
        answers=[tokens(one.answers) for one in rows],
        aliases=[],
    )
