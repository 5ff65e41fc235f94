"""Classification of texts and of pairs of texts: from data sets, and from files of JSON lines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from torch import nn

from fusionbench.config import Config
from fusionbench.config.fields import Count
from fusionbench.errors import ConfigError, MissingData, MissingPart
from fusionbench.families import Family, HasHead, HasTextInput, as_source
from fusionbench.tasks.base import Split
from fusionbench.tasks.class_lists import agreed_class_names
from fusionbench.tasks.classification import ClassificationTask
from fusionbench.tasks.datasets import open_splits
from fusionbench.tasks.metrics import CLASSIFIED, chosen_metrics
from fusionbench.tasks.registration import task
from fusionbench.tasks.spec import Columns, TaskSpec, refuse_unused
from fusionbench.tasks.text_data import RawTexts, Texts, TextSplit, read_json_lines
from fusionbench.tasks.trained_heads import read_head
from fusionbench.weights.headers import Source


class TextOptions(Config):
    """What such a task takes beside what all tasks take."""

    length: Count | None = None
    """Most tokens of an example; None: 512, or what the model takes where that is less."""


@task("text")
def text_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> ClassificationTask:
    """Classification of texts or of pairs of texts of a data set, scored by the head of the task's expert."""
    refuse_unused(name, spec, "templates")
    splits, brought = from_text_dataset(spec)
    names = agreed_class_names(name, spec.dataset, spec.class_names, brought)
    return text_classification(name, spec, splits, names, family, base)


@task("text_lines")
def text_lines_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> ClassificationTask:
    """Classification of texts in a folder of JSON lines, `<split>.jsonl`, scored by the head of the task's expert."""
    if spec.class_names is None:
        raise ConfigError(f"The task {name} is of the kind 'text_lines', which brings no class_names. List them.")
    refuse_unused(name, spec, "config", "splits", "templates")
    folder = Path(spec.dataset).expanduser()
    columns = _text_columns(spec.columns)
    files: dict[Split, Path] = {split: folder / f"{split}.jsonl" for split in get_args(Split)}
    splits = {s: read_json_lines(path, columns, spec.columns.label) for s, path in files.items() if path.is_file()}
    if not splits:
        raise MissingData(
            f"{folder} holds no split. It needs test.jsonl, one JSON object a line, and the same for train and "
            "validation where they are used."
        )
    return text_classification(name, spec, splits, spec.class_names, family, base)


def text_classification(
    name: str,
    spec: TaskSpec,
    splits: Mapping[Split, RawTexts],
    class_names: Sequence[str],
    family: Family,
    base: Source | nn.Module,
) -> ClassificationTask:
    """Return the task of telling classes of texts apart, with the head that the description names, if it names one.

    Raises:
        MissingPart: where the family takes no texts, or has no trained heads.
    """
    if not isinstance(family, HasTextInput):
        raise MissingPart(family.name, f"text input, which the task {name} is about")
    if not isinstance(family, HasHead):
        raise MissingPart(family.name, f"trained heads, one of which the task {name} needs")
    options = TextOptions.read(dict(spec.options), f"options of the task {name}")
    source = as_source(base)
    processor = family.token_processor(source, options.length)
    head = None if spec.head is None else read_head(spec.head, family, source.config, class_names, task=name)
    return ClassificationTask(
        name=name,
        family=family,
        config=source.config,
        class_names=tuple(class_names),
        data={split: TextSplit(raw, processor) for split, raw in splits.items()},
        processor=processor,
        head=head,
        metrics=chosen_metrics(name, spec.metrics, CLASSIFIED),
        version=spec.version,
    )


def from_text_dataset(spec: TaskSpec) -> tuple[dict[Split, RawTexts], tuple[str, ...] | None]:
    """Return the splits of a description's data set, and the class names that it brings, if any.

    Raises:
        MissingData: where the data set, a split or a column is not there, naming what is.
        ConfigError: where a column holds something else than texts, or than whole numbers.
    """
    columns, label = _text_columns(spec.columns), spec.columns.label
    opened = open_splits(spec.dataset, spec.config, spec.splits)
    for split, dataset in opened.items():
        _check_columns(spec.dataset, (spec.splits or {}).get(split, split), dataset, columns, label)
    names = getattr(next(iter(opened.values())).features[label], "names", None)
    return {split: _raw(held, columns, label) for split, held in opened.items()}, tuple(names) if names else None


def _text_columns(columns: Columns) -> tuple[str, ...]:
    return (columns.text,) if columns.pair is None else (columns.text, columns.pair)


def _check_columns(reference: str, split: str, dataset: Any, columns: Sequence[str], label: str) -> None:
    absent = [name for name in (*columns, label) if name not in dataset.column_names]
    if absent:
        raise MissingData(
            f"The split {split!r} of {reference} has no column {' and no column '.join(absent)}. It has: "
            f"{', '.join(dataset.column_names)}. Name them in the task's columns, for example "
            "{text: premise, pair: hypothesis, label: label}."
        )
    kinds = {name: str(getattr(dataset.features[name], "dtype", "")) for name in (*columns, label)}
    wrong = [name for name in columns if "string" not in kinds[name]]
    if wrong or not kinds[label].startswith(("int", "uint")):
        name = (wrong or [label])[0]
        raise ConfigError(
            f"The column {name!r} of {reference} holds {kinds[name] or 'something else'}; texts must be strings, and "
            "labels integers, each the index of a class name."
        )


def _raw(dataset: Any, columns: Sequence[str], label: str) -> RawTexts:
    def read() -> Texts:
        texts = [list(dataset[column][:]) for column in columns]
        labels = np.asarray(dataset[label][:], dtype=np.int64)
        return Texts(texts[0], texts[1] if len(texts) > 1 else None, labels)

    return RawTexts(f"{dataset._fingerprint}/{len(dataset)}/{'/'.join(columns)}/{label}", len(dataset), read)
