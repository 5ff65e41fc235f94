"""Four tasks of real texts: WordNet's definitions and examples of use, with negatives that are made by rule.

Every example of use, and every defined meaning, belongs to one split; nothing of it is in another.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import numpy as np

from fusionbench.suites.texts.clauses import pick
from fusionbench.suites.texts.tasks import SPLITS, Record, SplitName, TextKind, records_of
from fusionbench.suites.texts.wordnet import (
    ANTONYM,
    HYPERNYM,
    HYPONYM,
    Synset,
    WordNet,
    read_wordnet,
    wordnet_folder,
)

MOST = 24
"""Words of a text; longer ones are left out."""
PARTS: Mapping[SplitName, Sequence[int]] = {"validation": (0,), "test": (1, 2), "train": range(3, 10)}
"""Tenths of the texts, by their checksum."""
T = TypeVar("T")
Source = Callable[[WordNet], list[tuple[str, T]]]
"""From WordNet to what examples are made of, each with the text by which it belongs to a split."""


def real_records(name: str, *, seed: int, train: int, validation: int, test: int) -> dict[SplitName, list[Record]]:
    """Return a task's splits, disjoint in their texts, each with all labels equally often (±1), in random order.

    Args:
        name: of the task, a key of `REAL`.
        seed: of everything.
        train: examples to train on.
        validation: examples to choose by.
        test: examples to report on.

    Raises:
        MissingData: where WordNet is not installed.
        CheckpointError: where a file of it is damaged.
    """
    counts: dict[SplitName, int] = {"train": train, "validation": validation, "test": test}
    found: dict[SplitName, list[Record]] = {}
    for split in SPLITS:
        kind = replace(REAL[name], draw=partial(DRAWN[name], split))
        only = {each: counts[each] if each == split else 0 for each in SPLITS}
        found[split] = records_of(kind, seed=seed, **only)[split]
    return found


def _of(split: SplitName, source: Source[T]) -> Sequence[T]:
    """Return what a source finds of a split, found once."""
    return _parted(source, wordnet_folder())[split]


@cache
def _parted(source: Source[T], folder: Path) -> dict[SplitName, list[T]]:
    found = source(read_wordnet(folder))
    return {
        split: [item for text, item in found if crc32(text.encode()) % 10 in tenths] for split, tenths in PARTS.items()
    }


def _defined(net: WordNet) -> list[tuple[str, Synset]]:
    return [
        (synset.gloss, synset)
        for synset in net.synsets.values()
        if 3 <= len(synset.gloss.split()) <= MOST and synset.gloss.count("(") == synset.gloss.count(")")
    ]


@cache
def _topics(split: SplitName, folder: Path) -> dict[str, list[Synset]]:  # noqa: ARG001
    topics: dict[str, list[Synset]] = {}
    for synset in _of(split, _defined):
        topics.setdefault(synset.topic, []).append(synset)
    return topics


def definition(split: SplitName, rng: np.random.Generator, label: int) -> tuple[str, ...]:
    """Return a question for a word's meaning, and its definition (0) or another's of the same topic (1)."""
    synset = pick(rng, _of(split, _defined))
    others = [synset]
    if label:
        others = [other for other in _topics(split, wordnet_folder())[synset.topic] if other.gloss != synset.gloss]
    if not others:
        return definition(split, rng, label)
    return f"what does {pick(rng, synset.words)} mean?", pick(rng, others).gloss


def _used(net: WordNet) -> list[tuple[str, str]]:
    texts = (text for synset in net.synsets.values() for text in synset.examples)
    return [(text, text) for text in dict.fromkeys(texts) if 4 <= len(text.split()) <= MOST]


def usage(split: SplitName, rng: np.random.Generator, label: int) -> tuple[str, ...]:
    """Return an example of use as it is (1), or with two neighbours exchanged, a word lost or one repeated (0)."""
    words = pick(rng, _of(split, _used)).split()
    if label:
        return (" ".join(words),)
    place, change = int(rng.integers(len(words) - 1)), int(rng.integers(3))
    if change == 0 and words[place] != words[place + 1]:
        words[place : place + 2] = [words[place + 1], words[place]]
    elif change == 1:
        del words[place]
    else:
        words.insert(place, words[place])
    return (" ".join(words),)


def _replaceable(net: WordNet) -> list[tuple[Synset, str, str]]:
    """Return `(synset, word, example)` where the example has the word as it stands in the dictionary."""
    return [
        (synset, word, text)
        for synset in net.synsets.values()
        for text in synset.examples
        if len(text.split()) <= MOST
        for word in synset.words
        if re.search(rf"\b{re.escape(word)}\b", text)
    ]


def _against(net: WordNet, synset: Synset) -> list[Synset]:
    """Return antonyms, or where there are none the other meanings below the one above."""
    parents = net.pointed(synset, HYPERNYM)
    sisters = [other for parent in parents for other in net.pointed(parent, HYPONYM) if other.place != synset.place]
    return net.pointed(synset, ANTONYM) or sisters


def _others(synset: Synset, group: Sequence[Synset]) -> list[str]:
    return [name for other in group for name in other.words if name not in synset.words]


def _with_synonyms(net: WordNet) -> list[tuple[str, tuple[str, str, list[str], list[str]]]]:
    """Return word, example, synonyms, and words of other meanings that could stand in its place."""
    found = []
    for synset, word, text in _replaceable(net):
        same = [name for name in synset.words if name.lower() != word.lower()]
        if same and (unlike := _others(synset, _against(net, synset))):
            found.append((text, (word, text, same, unlike)))
    return found


def synonym(split: SplitName, rng: np.random.Generator, label: int) -> tuple[str, ...]:
    """Return an example of use, and it again with a synonym (1), or an antonym or sister term (0), for its word."""
    word, text, same, unlike = pick(rng, _of(split, _with_synonyms))
    return text, _exchanged(text, word, pick(rng, same if label else unlike))


def _related(net: WordNet) -> list[tuple[str, tuple[str, str, list[list[str]]]]]:
    """Return word, example, and the words above, below, and beside or against it, where there are all three."""
    found = []
    for synset, word, text in _replaceable(net):
        groups = net.pointed(synset, HYPERNYM), net.pointed(synset, HYPONYM), _against(net, synset)
        names = [_others(synset, group) for group in groups]
        if all(names):
            found.append((text, (word, text, names)))
    return found


def relation(split: SplitName, rng: np.random.Generator, label: int) -> tuple[str, ...]:
    """Return an example, and it again with a wider word (0), a narrower one (1), or one beside or against it (2)."""
    word, text, names = pick(rng, _of(split, _related))
    return text, _exchanged(text, word, pick(rng, names[label]))


def _exchanged(text: str, word: str, other: str) -> str:
    return re.sub(rf"\b{re.escape(word)}\b", lambda _: other, text, count=1)


DRAWN = {"definition": definition, "usage": usage, "synonym": synonym, "relation": relation}
COLUMNS = {
    "definition": ("question", "sentence"),
    "usage": ("sentence",),
    "synonym": ("sentence1", "sentence2"),
    "relation": ("premise", "hypothesis"),
}
LABELS = {
    "definition": ("its own", "another's"),
    "usage": ("broken", "in use"),
    "synonym": ("other meaning", "synonym"),
    "relation": ("wider", "narrower", "beside"),
}
REAL: Mapping[str, TextKind] = {
    name: TextKind(name, "", COLUMNS[name], LABELS[name], partial(draw, "train")) for name, draw in DRAWN.items()
}
"""By name; their texts are read from WordNet where it is installed."""
