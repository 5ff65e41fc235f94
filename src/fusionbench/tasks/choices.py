"""Rank classification: the answer is the choice that the model finds most probable, over several wordings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fusionbench.config import Config
from fusionbench.config.fields import Count, Text
from fusionbench.errors import ConfigError
from fusionbench.families import Backbone, Batch, Family, TextCodec
from fusionbench.tasks.answers import MEDIAN_ACCURACY
from fusionbench.tasks.base import Metric, Predictor, Rows, Split
from fusionbench.tasks.metrics import ACCURACY, chosen_metrics
from fusionbench.tasks.outputs import entropies, finite
from fusionbench.tasks.reading import reading, split_of
from fusionbench.tasks.registration import task
from fusionbench.tasks.seq2seq import LENGTH, NO_LABEL, WRITTEN, check_columns, text_codec_of
from fusionbench.tasks.spec import TaskSpec, refuse_unused
from fusionbench.tasks.table_data import Ragged, Row, RowSplit, from_table, prepared
from fusionbench.tasks.wordings import JinjaWording, Wording, label_of, wording_list
from fusionbench.weights.headers import Source

LABELS, WORDS = "labels", "choices"
PART = 64
"""Questions whose answers are scored at a time; with many wordings a batch of examples is many questions."""


@dataclass(frozen=True)
class ChoiceTask:
    """Choose among texts by their log-probability; implements `Task`.

    A choice's score is Σ log p(token | question, tokens before), its end included and not divided by its length, as in
    T0 and the TIES papers (arXiv:2110.08207, arXiv:2306.01708).

    Attributes:
        name: in tables; seeds the order of examples.
        family: one that writes texts.
        codec: from texts to tokens.
        wordings: ways to ask, all with as many choices.
        data: the splits that there are.
        choices: how many there are.
        label: the column of labels: the index of the right choice.
        label_rule: a Jinja template that makes that index of a row, where no column holds it.
        metrics: the primary one first; `median_accuracy` is the median of the wordings' accuracies.
        version: raised when the task's numbers change.
        length: the most tokens that are read.
    """

    name: str
    family: Family
    codec: TextCodec
    wordings: tuple[Wording | JinjaWording, ...]
    data: Mapping[Split, RowSplit]
    choices: int
    label: str = "label"
    label_rule: str | None = None
    metrics: tuple[Metric, ...] = (MEDIAN_ACCURACY,)
    version: int = 1
    length: int = LENGTH

    def size(self, split: Split) -> int:
        """Return the number of examples of a split; see `Task.size`."""
        return split_of(self.name, self.data, split).count

    def batches(
        self,
        split: Split,
        *,
        size: int,
        seed: int | None = None,
        start: int = 0,
        limit: int | None = None,
        labels: bool = True,
    ) -> Iterator[Batch]:
        """Yield batches of `size` examples of a split.

        "input_ids" and "attention_mask" are `(size, wordings, tokens)`, "choices" `(size, wordings, choices, tokens)`
        with −100 behind each, "labels" `(size,)`; all int64. See `Task.batches` for the arguments.

        Raises:
            MissingData: where the split is not there or empty, or lacks a column.
            ConfigError: where a label is no index of a choice.
        """
        order = reading(self.name, split, self.size(split), size=size, seed=seed, start=start, limit=limit)
        texts = self._prepared(split)
        for indices in order:
            yield self._batch(texts, [int(index) for index in indices], labels)

    def _batch(self, texts: Mapping[str, Ragged], indices: Sequence[int], labels: bool) -> Batch:
        ways, kinds, count = len(self.wordings), self.choices, len(indices)
        asked = [index * ways + way for index in indices for way in range(ways)]
        lines = [place * kinds + kind for place in asked for kind in range(kinds)]
        read = self.family.collate([{"input_ids": texts["read"].line(place)} for place in asked], self.codec)
        said = [{"input_ids": [0], "label": texts["choices"].line(line)} for line in lines]
        batch: Batch = {key: item.view(count, ways, -1) for key, item in read.items()}
        batch[WORDS] = self.family.collate(said, self.codec)["labels"].view(count, ways, kinds, -1)
        if labels:
            batch[LABELS] = torch.tensor([int(texts["labels"].line(index)[0]) for index in indices])
        return batch

    def _prepared(self, split: Split) -> dict[str, Ragged]:
        source = self.data[split]
        columns = {f"{{{name}}}": None for wording in self.wordings for name in wording.columns}
        if self.label_rule is None:
            columns[f"{{{self.label}}}"] = None
        check_columns(self.name, split, source, tuple(columns))

        def make() -> dict[str, list[list[int]]]:
            rows = source.read()
            labels = [self._label(row) for row in rows]
            self._check_labels(split, labels)
            asked = [wording.question(row) for row in rows for wording in self.wordings]
            words = [text for row in rows for wording in self.wordings for text in self._answers(wording, row)]
            return {
                "read": self.codec.encode(asked, self.length),
                "choices": self.codec.encode_answers(words, self.length),
                "labels": [[int(label)] for label in labels],
            }

        # Without the field of how answers are counted, whose default would change the names of older files.
        rule = () if self.label_rule is None else (self.label_rule, self.choices)
        return prepared(source.digest, (self.codec.digest, self.wordings, self.label, self.length, *rule), make)

    def _label(self, row: Row) -> Any:
        return row[self.label] if self.label_rule is None else label_of(self.label_rule, row)

    def _answers(self, wording: Wording | JinjaWording, row: Row) -> tuple[str, ...]:
        found = wording.answers(row)
        if len(found) != self.choices:
            raise ConfigError(
                f"{self.name}: a wording offers {len(found)} choices ({' | '.join(found)}), expected {self.choices}. "
                "Take the rows or the wording out."
            )
        return found

    def _check_labels(self, split: Split, labels: Sequence[Any]) -> None:
        for place, label in enumerate(labels):
            if label not in range(self.choices):
                raise ConfigError(
                    f"{self.name}: example {place} of the split {split!r} has the label {label!r}, expected 0 to "
                    f"{self.choices - 1}, the index of a choice. Choose a split that is labelled."
                )

    def bind(self, backbone: Backbone) -> Predictor:
        """Return the choices' log-probabilities, `(examples, wordings, choices)`."""

        def predict(batch: Batch) -> Tensor:
            words = batch[WORDS]
            logs = -self._surprise(backbone, batch, words.flatten(0, 2)).sum(dim=-1)
            return logs.view(words.shape[:3])

        return predict

    def _surprise(self, backbone: Backbone, batch: Batch, words: Tensor) -> Tensor:
        """Return −log p of each token of `(examples · wordings · choices, tokens)`, 0 where there is none."""
        questions = {key: batch[key].flatten(0, 1) for key in ("input_ids", "attention_mask")}
        before = torch.cat([torch.full_like(words[:, :1], self.codec.start), words[:, :-1]], dim=1)
        given, found = before.masked_fill(before == NO_LABEL, self.codec.pad), []
        for first in range(0, len(questions["input_ids"]), PART):
            some = {key: item[first : first + PART] for key, item in questions.items()}
            lines = slice(first * self.choices, (first + PART) * self.choices)
            logits = self.family.features(backbone, {**some, WRITTEN: given[lines]})
            said = words[lines]
            lost = cross_entropy(logits.flatten(0, 1), said.flatten(), ignore_index=NO_LABEL, reduction="none")
            found.append(lost.view_as(said))
        return torch.cat(found)

    def loss(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean over examples and wordings of −log p of the right choice."""
        scores: Tensor = predict(batch)
        right = batch[LABELS].to(scores.device)[:, None, None].expand(-1, scores.shape[1], 1)
        return -scores.gather(2, right).mean()

    def objective(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean entropy in nats of the choices, their probabilities scaled to sum to 1."""
        return entropies(predict(batch)).mean()

    def rows(self, predict: Predictor, batch: Batch) -> Rows:
        """Return "correct", `(examples, wordings)` bool.

        Raises:
            NotFinite: where a score is NaN or Inf, so that the model's answer means nothing.
        """
        scores = finite(predict(batch), self.name, "scores").cpu()
        correct: np.ndarray[Any, Any] = (scores.argmax(dim=-1) == batch[LABELS].cpu()[:, None]).numpy()
        return {"correct": correct}


class _Options(Config):
    """What a suite's YAML says of such a task under `options`."""

    wordings: Annotated[tuple[Wording, ...], Field(min_length=1)] | None = None
    prompts: Text | None = Field(default=None, description="a list of wordings that comes with the package")
    first: Count | None = Field(default=None, description="take only so many of them")
    length: Count = LENGTH


@task("choices")
def choice_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> ChoiceTask:
    """Choose the most probable of several texts (rank classification); the median accuracy over wordings."""
    codec = text_codec_of(name, family, base)
    refuse_unused(name, spec, "class_names", "templates")
    options = _Options.read(spec.options, f"options of the task {name}")
    chosen = spec.metrics if "metrics" in spec.model_fields_set else (MEDIAN_ACCURACY.name,)
    data = from_table(spec.dataset, config=spec.config, splits=spec.splits)
    wordings, choices, rule = _wordings(name, options)
    # Of several wordings an example is right in some and wrong in others.
    known = (MEDIAN_ACCURACY, ACCURACY) if len(wordings) == 1 else (MEDIAN_ACCURACY,)
    metrics = chosen_metrics(name, chosen, known)
    return ChoiceTask(
        name, family, codec, wordings, data, choices, spec.columns.label, rule, metrics, spec.version, options.length
    )


def _wordings(name: str, options: _Options) -> tuple[tuple[Wording | JinjaWording, ...], int, str | None]:
    """Return the ways to ask, how many choices each offers, and how a row says which is right."""
    if (options.wordings is None) == (options.prompts is None):
        raise ConfigError(f"The task {name} needs options.wordings, or options.prompts such as rte, not both.")
    if options.prompts is not None:
        known = wording_list(options.prompts)
        return known.wordings[: options.first], known.choices, known.label
    wordings = options.wordings or ()
    counts = [len(wording.choices) for wording in wordings]
    if len(set(counts)) > 1:
        raise ConfigError(f"The task {name}: its wordings have {counts} choices; give each as many.")
    return wordings[: options.first], counts[0], None
