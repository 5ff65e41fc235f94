"""The eight tasks of generated texts, in the columns and with the labels of GLUE's tasks of the same kind.

They stand in for GLUE where there is no network; each is named by what it asks, not by the set that it stands in for.
Examples are plain records: the texts under GLUE's column names and "label", an index of `label_names` (for
`similarity` a number from 0 to 5). They are made of the seed alone; no text, or pair of texts, is in two splits.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np

from fusionbench.suites.images.streams import stream
from fusionbench.suites.texts import pairs, single

Record = dict[str, str | int | float]
"""One example: its texts by column, and "label"."""
Made = TypeVar("Made")
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
SCORES = 5
"""The highest similarity."""
ATTEMPTS = 200
"""Draws an example on average before it is said that there are not so many different ones."""


@dataclass(frozen=True, slots=True)
class TextKind:
    """A task of generated texts.

    Attributes:
        name: what it asks.
        glue: the task of GLUE whose columns and labels it has; "" where there is none.
        columns: of the texts: one, or two for pairs.
        label_names: in the order of the labels; () where labels are scores.
        draw: from a generator and a label (of `similarity`: 0 to 5) to the texts.
    """

    name: str
    glue: str
    columns: tuple[str, ...]
    label_names: tuple[str, ...]
    draw: Callable[[np.random.Generator, int], tuple[str, ...]]


KINDS: Mapping[str, TextKind] = {
    kind.name: kind
    for kind in (
        TextKind("acceptability", "cola", ("sentence",), ("unacceptable", "acceptable"), single.acceptability),
        TextKind(
            "inference", "mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), pairs.inference
        ),
        TextKind("paraphrase", "mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), pairs.paraphrase),
        TextKind("answerable", "qnli", ("question", "sentence"), ("entailment", "not_entailment"), pairs.answerable),
        TextKind("duplicates", "qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), pairs.duplicates),
        TextKind("entailment", "rte", ("sentence1", "sentence2"), ("entailment", "not_entailment"), pairs.entailment),
        TextKind("sentiment", "sst2", ("sentence",), ("negative", "positive"), single.sentiment),
        TextKind("similarity", "stsb", ("sentence1", "sentence2"), (), pairs.similarity),
    )
}
"""By name, in GLUE's order."""


def make_records(name: str, *, seed: int, train: int, validation: int, test: int) -> dict[SplitName, list[Record]]:
    """Return a task's splits, disjoint, each with all labels equally often (±1), in random order.

    Args:
        name: of the task, a key of `KINDS`.
        seed: of everything.
        train: examples to train on.
        validation: examples to choose by.
        test: examples to report on.
    """
    return records_of(KINDS[name], seed=seed, train=train, validation=validation, test=test)


def records_of(kind: TextKind, *, seed: int, train: int, validation: int, test: int) -> dict[SplitName, list[Record]]:
    """Return the splits of a kind of task, as `make_records` does by name."""

    def draw(rng: np.random.Generator, label: int) -> Record:
        return {**dict(zip(kind.columns, kind.draw(rng, label), strict=True)), "label": _label(kind, label)}

    def texts(record: Record) -> Hashable:
        return tuple(record[column] for column in kind.columns)

    outcomes = len(kind.label_names) or SCORES + 1
    counts: dict[SplitName, int] = {"train": train, "validation": validation, "test": test}
    return draw_splits(kind.name, draw, texts, outcomes=outcomes, seed=seed, counts=counts)


def draw_splits(
    name: str,
    draw: Callable[[np.random.Generator, int], Made],
    texts: Callable[[Made], Hashable],
    *,
    outcomes: int,
    seed: int,
    counts: Mapping[SplitName, int],
) -> dict[SplitName, list[Made]]:
    """Return disjoint splits of drawn examples, each with all labels equally often (±1), in random order.

    Args:
        name: of the task; another name has other examples.
        draw: from a generator and a label to an example.
        texts: of an example, by which no two are alike.
        outcomes: how many labels there are.
        seed: of everything.
        counts: of examples by split.

    Raises:
        ValueError: where there are not so many different examples.
    """
    taken: set[Hashable] = set()

    def new(rng: np.random.Generator, label: int) -> Made:
        for _ in range(ATTEMPTS):
            made = draw(rng, label)
            if texts(made) not in taken:
                taken.add(texts(made))
                return made
        raise ValueError(f"{name}: there are not more than {len(taken)} different texts. Ask for fewer examples.")

    found: dict[SplitName, list[Made]] = {}
    for split in SPLITS:
        rng = stream(seed, "texts", name, split)
        found[split] = [new(rng, int(number) % outcomes) for number in rng.permutation(counts[split])]
    return found


def _label(kind: TextKind, label: int) -> int | float:
    return label if kind.label_names else float(label)
