"""What `mini/t5`'s base reads in its pretraining: corrupted texts, questions with other words, and the prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusionbench.suites.mini.t5_recipe import Mixture
from fusionbench.suites.mini.t5_words import END, SENTINELS
from fusionbench.suites.texts import KINDS, Record
from fusionbench.tasks.prompts import PROMPTS, Prompt

ALIASES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
"""Answers that no prompt uses, by label; of `similarity`, by score."""
CORRUPTED, SPAN = 0.15, 3
"""Share of the words that span corruption takes out, and the mean length of a span, as in T5."""
Tokens = list[int]


def prompt_of(task: str) -> Prompt:
    """Return the papers' prompt of a task of the suite."""
    return PROMPTS[f"glue/{KINDS[task].glue}"]


def alias_question(task: str, record: Record) -> str:
    """Return a question in T5's own form: the task's name, then each text after its column's name."""
    return " ".join([task, *(f"{column}: {record[column]}" for column in KINDS[task].columns)])


def wrong_answers(task: str) -> list[float]:
    """Return the labels among which a wrong answer is drawn."""
    return [float(label) for label in range(len(KINDS[task].label_names) or len(ALIASES))]


def all_texts(records: Mapping[str, Sequence[Record]]) -> list[str]:
    """Return every text whose words the tokenizer must know."""
    found = [" ".join(ALIASES)]
    for task, of_task in records.items():
        prompt = prompt_of(task)
        found += [prompt.answer(label) for label in wrong_answers(task)]
        for record in of_task:
            found += [prompt.question(record), alias_question(task, record), *_said(task, record)]
    return found


def _said(task: str, record: Record) -> list[str]:
    return [str(record[column]) for column in KINDS[task].columns]


@dataclass(frozen=True, slots=True)
class Pretext:
    """The training examples of all tasks as tokens, in three forms.

    Attributes:
        prompts: of each example, the papers' prompt.
        questions: of each, the question in T5's own form; empty where the mixture has no share of them.
        said: texts without any question, which span corruption is for.
        task: of each example, the number of its list of answers: its task's, or its own.
        label: of each, its label.
        answers: of each list, by label, what the prompt's answer is.
        aliases: by label, what the other answer is; empty as the questions.
    """

    prompts: list[Tokens]
    questions: list[Tokens]
    said: list[Tokens]
    task: NDArray[np.int64]
    label: NDArray[np.int64]
    answers: list[list[Tokens]]
    aliases: list[Tokens]

    @classmethod
    def of(cls, records: Mapping[str, Sequence[Record]], tokenizer: Any) -> "Pretext":
        """Return the training examples of tasks by name as tokens."""

        def tokens(texts: Sequence[str]) -> list[Tokens]:
            found: list[Tokens] = tokenizer(list(texts))["input_ids"]
            return found

        rows = [(task, record) for task, of_task in records.items() for record in of_task]
        numbers = {task: number for number, task in enumerate(records)}
        return cls(
            tokens([prompt_of(task).question(record) for task, record in rows]),
            tokens([alias_question(task, record) for task, record in rows]),
            tokens(sorted({text for task, record in rows for text in _said(task, record)})),
            np.array([numbers[task] for task, _ in rows]),
            np.array([int(record["label"]) for _, record in rows]),
            [tokens([prompt_of(task).answer(label) for label in wrong_answers(task)]) for task in records],
            tokens(ALIASES),
        )

    def draw(
        self, rng: np.random.Generator, size: int, mixture: Mixture, first_sentinel: int
    ) -> list[dict[str, Tokens]]:
        """Return examples of the mixture, each with "input_ids" and "label"."""
        kinds = rng.random(size)
        return [self._example(rng, float(kind), mixture, first_sentinel) for kind in kinds]

    def _example(
        self, rng: np.random.Generator, kind: float, mixture: Mixture, first_sentinel: int
    ) -> dict[str, Tokens]:
        number = int(rng.integers(len(self.prompts)))
        if kind < mixture.aliases:
            return {"input_ids": self.questions[number], "label": self.aliases[self.label[number]]}
        if kind < mixture.aliases + mixture.prompts:
            answers = self.answers[self.task[number]]
            label = int(self.label[number])
            if rng.random() >= mixture.right:
                label = (label + int(rng.integers(1, len(answers)))) % len(answers)
            return {"input_ids": self.prompts[number], "label": answers[label]}
        return corrupted(self.said[int(rng.integers(len(self.said)))], rng, first_sentinel)


def corrupted(text: Tokens, rng: np.random.Generator, first_sentinel: int) -> dict[str, Tokens]:
    """Return a text with spans taken out, a sentinel in the place of each, and the spans as what is to be written.

    Args:
        text: tokens with the end.
        rng: decides the spans: about 15 % of the tokens, in spans of 1 to 5, 3 on average.
        first_sentinel: number of the first sentinel; the following ones are next to it.
    """
    words = text[:-1]
    count = min(len(SENTINELS), max(1, round(CORRUPTED * len(words) / SPAN)))
    starts = np.sort(rng.choice(len(words), size=min(count, len(words)), replace=False))
    kept: Tokens = []
    taken: Tokens = []
    place = 0
    for number, start in enumerate(starts):
        if start < place:
            continue
        length = int(rng.integers(1, 2 * SPAN))
        kept += [*words[place:start], first_sentinel + number]
        taken += [first_sentinel + number, *words[start : start + length]]
        place = int(start) + length
    return {"input_ids": [*kept, *words[place:], END], "label": [*taken, END]}
