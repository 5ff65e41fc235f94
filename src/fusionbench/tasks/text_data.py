"""Labelled texts by split: where they come from, and the file of tokens that each split is prepared into once."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from fusionbench.cache import cache_folder
from fusionbench.errors import ConfigError, MissingData
from fusionbench.families import TokenProcessor
from fusionbench.tasks.data import Labels, save_array
from fusionbench.tasks.json_lines import read_objects
from fusionbench.tasks.order import Indices
from fusionbench.weights.partial import written_to

FORMAT = 1
"""Raised when the same inputs are prepared into other tokens, so that older files are not used again."""
PART = 4096
"""Texts that the tokenizer is given at a time."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Texts:
    """What a split says: texts, the second texts of pairs, and labels.

    Attributes:
        texts: one an example, or the first of each pair.
        others: the second of each pair, None where there are no pairs.
        labels: `(examples,)`, each the index of a class.
    """

    texts: Sequence[str]
    others: Sequence[str] | None
    labels: Labels


@dataclass(frozen=True, slots=True)
class RawTexts:
    """A split as its source has it; nothing of it is in memory.

    Attributes:
        digest: of the content; two splits of one digest are the same.
        count: number of examples.
        read: returns the split; called only where it has not been prepared before.
    """

    digest: str
    count: int
    read: Callable[[], Texts]


@dataclass(frozen=True, slots=True)
class TokenExamples:
    """A prepared split: the tokens of all examples end to end, mapped from a file.

    Attributes:
        tokens: `(rows, all tokens)` int32: ids, and token types where the tokenizer makes them.
        ends: `(examples,)` int64, where each example's tokens end.
        labels: `(examples,)` int64.
    """

    tokens: NDArray[np.int32]
    ends: NDArray[np.int64]
    labels: Labels

    def take(self, indices: Indices) -> list[dict[str, Any]]:
        """Return examples by their numbers: "input_ids" and, where there are any, "token_type_ids"."""
        names = ("input_ids", "token_type_ids")[: len(self.tokens)]
        starts = np.where(indices > 0, self.ends[indices - 1], 0)
        parts = (self.tokens[:, start:end] for start, end in zip(starts, self.ends[indices], strict=True))
        return [dict(zip(names, part, strict=True)) for part in parts]


@dataclass(frozen=True, slots=True)
class TextSplit:
    """A split of texts that is tokenised when it is first read; what a `ClassificationTask` takes as data."""

    raw: RawTexts
    processor: TokenProcessor

    @property
    def count(self) -> int:
        """Number of examples."""
        return self.raw.count

    def open(self) -> TokenExamples:
        """Return the split as tokens; the work is done once and kept under the cache folder.

        Several processes may ask for one split at the same time: one prepares it, the others wait.

        Raises:
            ConfigError: where an example has no token at all.
            OutputError: where the cache's disk is full or cannot be written.
        """
        key = hashlib.sha256(repr((FORMAT, self.raw.digest, self.processor.key)).encode()).hexdigest()
        place = cache_folder("splits") / f"{key}.tokens.npy"
        if not place.is_file():
            with FileLock(place.with_suffix(".lock")), written_to(place.parent):
                if not place.is_file():
                    logger.info("tokenising %d texts into %s", self.raw.count, place)
                    _write(self.raw, self.processor, place)
        return TokenExamples(np.load(place, mmap_mode="r"), *(np.load(path) for path in _beside(place)))


def _beside(place: Path) -> tuple[Path, Path]:
    return place.with_suffix(".ends.npy"), place.with_suffix(".labels.npy")


def _write(raw: RawTexts, processor: TokenProcessor, place: Path) -> None:
    """Write ends, labels and tokens; the tokens' file takes its name last, so that its being there says that all is."""
    said = raw.read()
    rows: list[dict[str, list[int]]] = []
    for first in range(0, len(said.texts), PART):
        part = slice(first, first + PART)
        rows += processor.prepare(said.texts[part], None if said.others is None else said.others[part])
    lengths = np.array([len(row["input_ids"]) for row in rows], dtype=np.int64)
    if not lengths.all():
        number = int(np.flatnonzero(lengths == 0)[0])
        raise ConfigError(f"Example {number} of the split is empty ({said.texts[number]!r}); a model needs a token.")
    ends, labels = _beside(place)
    save_array(np.cumsum(lengths), ends)
    save_array(said.labels, labels)
    save_array(np.stack([np.concatenate([row[name] for row in rows]) for name in rows[0]]).astype(np.int32), place)


def from_texts(texts: Texts) -> RawTexts:
    """Return a split of texts in memory.

    Raises:
        ConfigError: where there is not one text, one second text (if any) and one label an example.
    """
    lengths = {len(texts.texts), len(texts.labels), len(texts.texts if texts.others is None else texts.others)}
    if len(lengths) != 1 or not len(texts.texts):
        raise ConfigError(
            f"{len(texts.texts)} texts, {len(texts.others or ())} second texts and {len(texts.labels)} labels make no "
            "split. It takes at least one example, each with all of its parts."
        )
    hasher = hashlib.sha256(json.dumps([list(texts.texts), list(texts.others or ())]).encode())
    hasher.update(np.ascontiguousarray(texts.labels, dtype=np.int64).data)
    return RawTexts(f"sha256:{hasher.hexdigest()}", len(texts.texts), lambda: texts)


def read_json_lines(path: Path, columns: Sequence[str], label: str) -> RawTexts:
    """Return a split of a file with one JSON object a line.

    Args:
        path: the file.
        columns: keys of the text, and of the second text of a pair.
        label: key of the label, an integer.

    Raises:
        MissingData: where the file or a key is not there.
        ConfigError: where a line is no JSON object, or a value is of another kind.
    """
    records = read_objects(path)
    for number, record in records.items():
        _check_record(path, number, record, columns, label)
    held = [[record[column] for record in records.values()] for column in columns]
    labels = np.array([record[label] for record in records.values()], dtype=np.int64)
    return from_texts(Texts(held[0], held[1] if len(held) > 1 else None, labels))


def _check_record(path: Path, number: int, record: Mapping[str, Any], columns: Sequence[str], label: str) -> None:
    absent = [key for key in (*columns, label) if key not in record]
    if absent:
        raise MissingData(
            f"Line {number} of {path} has no {' and no '.join(absent)}. It has: {', '.join(record)}. Name the keys in "
            "the task's columns, for example {text: sentence, pair: other, label: label}."
        )
    wrong = [key for key in columns if not isinstance(record[key], str)]
    if wrong or type(record[label]) is not int:
        raise ConfigError(
            f"Line {number} of {path}: {(wrong or [label])[0]} is {record[(wrong or [label])[0]]!r}; texts must be "
            "strings, and labels integers, each the index of a class name."
        )
