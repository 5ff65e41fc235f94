"""Splits of Hugging Face data sets: saved folders, folders of images or tables, and ids of the hub."""

import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from fusionbench.errors import ConfigError, MissingData
from fusionbench.tasks.base import Split
from fusionbench.tasks.data import Labels, RawSplit

SAVED = ("dataset_dict.json", "state.json")
"""What `save_to_disk` leaves in a folder: of several splits, of one."""


SHARE = re.compile(r"(?P<name>[^\[\]]+)\[(?P<percent>[1-9]\d?)%\]")
"""A split's name for a part of another, such as `train[10%]`."""
SHUFFLED = re.compile(r"(?P<name>[^\[\]]+)\[(?P<side>first|after) (?P<count>[1-9]\d*) of seed (?P<seed>\d+)\]")
"""A split's name for examples of another after a shuffle, such as `validation[first 32 of seed 42]`."""


class FoundData(NamedTuple):
    """The splits of a data set that were asked for, and the class names that it brings, if any."""

    splits: Mapping[Split, RawSplit]
    class_names: tuple[str, ...] | None


def from_dataset(
    reference: str,
    *,
    config: str | None = None,
    splits: Mapping[Split, str] | None = None,
    image: str = "image",
    label: str = "label",
) -> FoundData:
    """Return the splits of a data set; no image is decoded before a split is prepared.

    Args:
        reference: a folder made by `save_to_disk`, a folder that `datasets.load_dataset` reads, or
            `org/name[@revision]` of the hub.
        config: which of its configurations.
        splits: its name for each of ours, `train[10%]` for a tenth of train that is drawn with seed 0,
            `validation[first 32 of seed 42]` and `validation[after 32 of seed 42]` for the two parts of a list that
            Python's own generator shuffled (both halves, where it has no more than so many examples); without them,
            those that have our names.
        image: the column of images.
        label: the column of integer labels.

    Raises:
        MissingData: where the data set, a split or a column is not there, naming what is.
    """
    chosen = open_splits(reference, config, splits)
    for split, dataset in chosen.items():
        _check_columns(reference, (splits or {}).get(split, split), dataset, (image, label))
    raw = {split: _raw(dataset, image, label) for split, dataset in chosen.items()}
    names = getattr(next(iter(chosen.values())).features[label], "names", None)
    return FoundData(raw, tuple(names) if names else None)


def open_splits(reference: str, config: str | None, splits: Mapping[Split, str] | None) -> dict[Split, Any]:
    """Return a data set's splits as `datasets.Dataset`, by our names for them; see `from_dataset`.

    Raises:
        MissingData: where the data set or a split is not there, naming what is.
    """
    held = _open(reference, config)
    wanted = splits if splits is not None else {split: split for split in get_args(Split) if split in held}
    found = {split: _part(held, name) for split, name in wanted.items()}
    absent = [wanted[split] for split, dataset in found.items() if dataset is None]
    if absent or not wanted:
        raise MissingData(
            f"{reference} has no split named {', '.join(absent) or 'train, validation or test'}. It has: "
            f"{', '.join(held)}. Name them in the task's splits, for example {{test: {next(iter(held), 'train')}}}."
        )
    return found


def _part(held: Mapping[str, Any], name: str) -> Any:
    """Return a split, or a part of one; None where there is none of that name."""
    shuffled = SHUFFLED.fullmatch(name)
    if name not in held and shuffled is not None:
        return _shuffled(held.get(shuffled["name"]), shuffled)
    share = SHARE.fullmatch(name)
    if name in held or share is None or share["name"] not in held:
        return held.get(name)
    whole = held[share["name"]]
    count = max(1, len(whole) * int(share["percent"]) // 100)
    return whole.select(np.sort(np.random.default_rng(0).permutation(len(whole))[:count]))


def _shuffled(whole: Any, asked: re.Match[str]) -> Any:
    """Return one of the two parts of a shuffled split, as `random.seed(s); random.shuffle(list)` orders it."""
    if whole is None:
        return None
    order = list(range(len(whole)))
    random.Random(int(asked["seed"])).shuffle(order)
    count = int(asked["count"]) if int(asked["count"]) < len(order) else len(order) // 2
    return whole.select(order[:count] if asked["side"] == "first" else order[count:])


def _open(reference: str, config: str | None) -> Mapping[str, Any]:
    """Return the data set's splits by name."""
    import datasets

    folder = Path(reference).expanduser()
    path, _, revision = reference.partition("@")
    if not folder.exists() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise MissingData(f"There is no data set at {reference}. Give a folder that exists, or org/name of the hub.")
    try:
        if any((folder / name).is_file() for name in SAVED):
            held = datasets.load_from_disk(str(folder))
        elif folder.exists():
            held = datasets.load_dataset(str(folder), config)
        else:
            held = datasets.load_dataset(path, config, revision=revision or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = (
            ""
            if folder.exists()
            else " Fetch it once with a network: fusionbench fetch suite=NAME, with HF_HUB_OFFLINE unset; where it is "
            "gated, ask for access at its page on the hub and run: hf auth login."
        )
        raise MissingData(f"The data set {reference} cannot be had: {why.rstrip('.')}.{fix}") from None
    if isinstance(held, Mapping):
        return held
    return {str(held.split or "train"): held}


def _check_columns(reference: str, split: str, dataset: Any, columns: tuple[str, ...]) -> None:
    absent = [name for name in columns if name not in dataset.column_names]
    if absent:
        raise MissingData(
            f"The split {split!r} of {reference} has no column {' and no column '.join(absent)}. It has: "
            f"{', '.join(dataset.column_names)}. Name them in the task's columns, for example {{image: img, label: y}}."
        )
    kind = getattr(dataset.features[columns[1]], "dtype", "")
    if not str(kind).startswith(("int", "uint", "bool")):
        raise ConfigError(
            f"The column {columns[1]!r} of {reference} holds {kind or 'no numbers'}; labels must be integers, each the "
            "index of a class name."
        )


def _raw(dataset: Any, image: str, label: str) -> RawSplit:
    def read() -> tuple[Iterator[Any], Labels]:
        return (row[image] for row in dataset.select_columns([image])), np.asarray(dataset[label][:], dtype=np.int64)

    return RawSplit(f"{dataset._fingerprint}/{len(dataset)}/{image}/{label}", len(dataset), read)
