"""Splits of rows with columns, from which prompts are filled, and the tokens that each split is turned into once."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from fusionbench.cache import cache_folder
from fusionbench.errors import ConfigError, MissingData
from fusionbench.tasks.base import Split
from fusionbench.tasks.datasets import open_splits
from fusionbench.tasks.json_lines import read_objects
from fusionbench.weights.partial import settle, written_to

FORMAT = 1
"""Raised when the same texts come out as other tokens, so that older files are not used again."""
Row = Mapping[str, Any]
Tokens = Sequence[Sequence[int]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RowSplit:
    """A split as its source has it.

    Attributes:
        digest: of the content; two splits of one digest are the same.
        count: number of examples.
        columns: names of its columns.
        read: returns all rows; called only where the split has not been prepared before.
    """

    digest: str
    count: int
    columns: tuple[str, ...]
    read: Callable[[], Sequence[Row]]


def from_rows(rows: Sequence[Row]) -> RowSplit:
    """Return a split of rows in memory, all with the same columns."""
    hasher = hashlib.sha256()
    for row in rows:
        hasher.update(repr(sorted(row.items())).encode())
    return RowSplit(f"sha256:{hasher.hexdigest()}", len(rows), tuple(rows[0]) if rows else (), lambda: rows)


def from_table(
    reference: str, *, config: str | None = None, splits: Mapping[Split, str] | None = None
) -> dict[Split, RowSplit]:
    """Return the splits of a data set; nothing but JSON lines is read before a split is prepared.

    Args:
        reference: a folder of JSON lines, `<split>.jsonl`; a folder made by `save_to_disk`, or one that
            `datasets.load_dataset` reads; or `org/name[@revision]` of the hub.
        config: which of its configurations.
        splits: its name for each of ours; without them, those that have our names.

    Raises:
        MissingData: where the data set or a split is not there, naming what is.
        ConfigError: where a line is no JSON object, or has other keys than the first.
    """
    folder = Path(reference).expanduser()
    lines = {path.stem: path for path in sorted(folder.glob("*.jsonl"))} if folder.is_dir() else {}
    if not lines:
        return {name: _of_dataset(held) for name, held in open_splits(reference, config, splits).items()}
    wanted = splits if splits is not None else {split: split for split in get_args(Split) if split in lines}
    absent = [name for name in wanted.values() if name not in lines]
    if absent or not wanted:
        raise MissingData(
            f"{folder} has no {' and no '.join(f'{name}.jsonl' for name in absent or ('test',))}. It has: "
            f"{', '.join(path.name for path in lines.values())}. Name them in the task's splits."
        )
    return {split: from_rows(_read_lines(lines[name])) for split, name in wanted.items()}


def _of_dataset(dataset: Any) -> RowSplit:
    digest = f"{dataset._fingerprint}/{len(dataset)}"
    return RowSplit(digest, len(dataset), tuple(dataset.column_names), dataset.to_list)


def _read_lines(path: Path) -> list[Row]:
    rows = read_objects(path)
    first = next(iter(rows.values()), {})
    for number, row in rows.items():
        if row.keys() != first.keys():
            raise ConfigError(f"Line {number} of {path} should be a JSON object with the keys {', '.join(first)}.")
    return list(rows.values())


class Ragged(NamedTuple):
    """Lists of tokens, one after another.

    Attributes:
        flat: all of them, int32.
        ends: where each list ends, `(lists,)` int64.
    """

    flat: NDArray[np.int32]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, lists: Tokens) -> "Ragged":
        """Return lists of tokens in one array."""
        flat = np.fromiter((token for line in lists for token in line), np.int32)
        return cls(flat, np.cumsum([len(line) for line in lists], dtype=np.int64))

    def line(self, index: int) -> NDArray[np.int32]:
        """Return one list."""
        return self.flat[self.ends[index - 1] if index else 0 : self.ends[index]]


def prepared(digest: str, what: object, make: Callable[[], Mapping[str, Tokens]]) -> dict[str, Ragged]:
    """Return a split's tokens by name; the work is done once and kept under the cache folder.

    Several processes may ask for one split at the same time: one prepares it, the others wait.

    Args:
        digest: of the split's content.
        what: all else that decides the tokens; its `repr` counts.
        make: returns the tokens.

    Raises:
        OutputError: where the cache's disk is full or cannot be written.
    """
    key = hashlib.sha256(repr((FORMAT, digest, what)).encode()).hexdigest()
    place = cache_folder("texts") / f"{key}.npz"
    if not place.is_file():
        with FileLock(place.with_suffix(".lock")), written_to(place.parent):
            if not place.is_file():
                logger.info("tokenizing texts into %s", place)
                _write(place, {name: Ragged.of(lists) for name, lists in make().items()})
    with np.load(place) as held:
        names = dict.fromkeys(key.partition("/")[0] for key in held.files)
        return {name: Ragged(held[f"{name}/flat"], held[f"{name}/ends"]) for name in names}


def _write(place: Path, found: Mapping[str, Ragged]) -> None:
    partial = place.with_suffix(".partial")
    arrays = {f"{name}/{key}": array for name, lists in found.items() for key, array in lists._asdict().items()}
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    settle(partial, place)
