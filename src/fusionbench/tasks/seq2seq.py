"""Text-to-text tasks: the model reads a prompt and writes the answer's words, which are right or wrong as a whole."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fusionbench.config import Config
from fusionbench.config.fields import Count, Text
from fusionbench.errors import ConfigError, MissingData, MissingPart
from fusionbench.families import Backbone, Batch, Family, HasTextToText, TextCodec, as_source
from fusionbench.families.decoding import greedy
from fusionbench.tasks.answers import SPEARMAN
from fusionbench.tasks.base import Metric, Predictor, Rows, Split
from fusionbench.tasks.metrics import ACCURACY, chosen_metrics
from fusionbench.tasks.outputs import entropies, finite
from fusionbench.tasks.prompts import Prompt, missing_columns, prompt_named
from fusionbench.tasks.reading import reading, split_of
from fusionbench.tasks.registration import task
from fusionbench.tasks.spec import TaskSpec, refuse_unused
from fusionbench.tasks.table_data import Ragged, RowSplit, from_table, prepared
from fusionbench.weights.headers import Source

NO_LABEL = -100
LABELS, MEMORY, WRITTEN = "labels", "memory", "decoder_input_ids"
LENGTH, TOKENS = 512, 10


@dataclass(frozen=True)
class TextToTextTask:
    """Read a prompt, write the answer; implements `Task`.

    There is no head: the model's own language-model head writes, and is fused with the rest.

    Attributes:
        name: in tables; seeds the order of examples.
        family: one that writes texts.
        codec: from texts to tokens and back.
        prompt: from a row to what is read and what is to be written.
        data: the splits that there are.
        label: the column of labels.
        metrics: the primary one first: `accuracy` is the share of answers that match word for word, `spearman` the
            rank correlation of answers read as numbers.
        version: raised when the task's numbers change.
        length: the most tokens that are read.
        tokens: the most tokens that are written.
    """

    name: str
    family: Family
    codec: TextCodec
    prompt: Prompt
    data: Mapping[Split, RowSplit]
    label: str = "label"
    metrics: tuple[Metric, ...] = (ACCURACY,)
    version: int = 1
    length: int = LENGTH
    tokens: int = TOKENS

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
        """Yield batches of `size` examples of a split, as the family collates them; see `Task.batches`.

        Raises:
            MissingData: where the split is not there or empty, or lacks a column of the prompt.
            ConfigError: where a label has no word.
        """
        order = reading(self.name, split, self.size(split), size=size, seed=seed, start=start, limit=limit)
        texts = self._prepared(split)
        for indices in order:
            examples = [{"input_ids": texts["read"].line(index)} for index in indices]
            if labels:
                examples = [
                    example | {"label": texts["written"].line(index)}
                    for example, index in zip(examples, indices, strict=True)
                ]
            yield self.family.collate(examples, self.codec)

    def _prepared(self, split: Split) -> dict[str, Ragged]:
        source, columns = self.data[split], (self.prompt.template, f"{{{self.label}}}")
        check_columns(self.name, split, source, columns)

        def make() -> dict[str, list[list[int]]]:
            rows = source.read()
            self._check_labels(split, [row[self.label] for row in rows])
            return {
                "read": self.codec.encode([self.prompt.question(row) for row in rows], self.length),
                "written": self.codec.encode_answers(
                    [self.prompt.answer(row[self.label]) for row in rows], self.length
                ),
            }

        return prepared(source.digest, (self.codec.digest, self.prompt.model_dump(), self.label, self.length), make)

    def _check_labels(self, split: Split, labels: list[Any]) -> None:
        targets = self.prompt.targets
        for place, label in enumerate(labels):
            number = isinstance(label, int | float) and math.isfinite(label)
            fits = number if targets is None else label in range(len(targets))
            if not fits:
                wanted = "a number" if targets is None else f"0 to {len(targets) - 1} ({', '.join(targets)})"
                raise ConfigError(
                    f"{self.name}: example {place} of the split {split!r} has the label {label!r}, expected {wanted}. "
                    "Give a target for each label, or choose a split that is labelled."
                )

    def bind(self, backbone: Backbone) -> Predictor:
        """Return what the model would write next, as logits over the vocabulary.

        Of a batch with labels: at each of their positions, all before it being given, `(examples, positions, words)`.
        Otherwise after "decoder_input_ids", or where these are missing at the first position, `(examples, words)`.
        """

        def predict(batch: Batch) -> Tensor:
            if LABELS in batch:
                return self.family.features(backbone, {**batch, WRITTEN: self._shifted(batch[LABELS])})
            written = batch.get(WRITTEN)
            given = self._first(batch) if written is None else written
            return self.family.features(backbone, {**batch, WRITTEN: given})[:, -1]

        return predict

    def _first(self, batch: Batch) -> Tensor:
        return torch.full_like(batch["input_ids"][:, :1], self.codec.start)

    def _shifted(self, labels: Tensor) -> Tensor:
        """Return what stands before each label: the start token, then the labels but the last."""
        before = torch.cat([torch.full_like(labels[:, :1], self.codec.start), labels[:, :-1]], dim=1)
        return before.masked_fill(before == NO_LABEL, self.codec.pad)

    def loss(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the labels' tokens, as Hugging Face's model returns it."""
        logits: Tensor = predict(batch)
        return cross_entropy(logits.flatten(0, 1), batch[LABELS].to(logits.device).flatten(), ignore_index=NO_LABEL)

    def objective(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean entropy in nats of the first word that would be written, over the whole vocabulary.

        This is what AdaMerging minimises for Flan-T5 in FusionBench (arXiv:2406.03280); it needs no labels.
        """
        return entropies(predict({key: item for key, item in batch.items() if key != LABELS})).mean()

    def rows(self, predict: Predictor, batch: Batch) -> Rows:
        """Return "correct", `(examples,)` bool; where answers are numbers also "answer" and "target", float64.

        An answer is what greedy decoding writes, without special tokens. One that is not a number counts as 0.

        Raises:
            NotFinite: where a logit is NaN or Inf, so that the model's answer means nothing.
        """
        answers = self.codec.decode(self._answers(predict, batch).tolist())
        kept = [line[line != NO_LABEL].tolist() for line in batch[LABELS].cpu()]
        targets = self.codec.decode(kept)
        pairs = list(zip(answers, targets, strict=True))
        rows = {"correct": np.array([answer == target for answer, target in pairs])}
        if self.prompt.targets is None:
            rows["answer"] = np.array([number_in(answer) for answer, _ in pairs])
            rows["target"] = np.array([number_in(target) for _, target in pairs])
        return rows

    def written(self, predict: Predictor, batch: Batch) -> Batch:
        """Return a batch, without labels, with the start token and the model's own answer as "decoder_input_ids"."""
        with torch.no_grad():
            answers = self._answers(predict, batch)
        given = torch.cat([self._first(batch).to(answers.device), answers[:, :-1]], dim=1)
        return {key: item for key, item in batch.items() if key != LABELS} | {WRITTEN: given}

    def _answers(self, predict: Predictor, batch: Batch) -> Tensor:
        unlabelled = {key: item for key, item in batch.items() if key != LABELS} | {MEMORY: WeakKeyDictionary()}

        def following(written: Tensor) -> Tensor:
            return finite(predict({**unlabelled, WRITTEN: written}), self.name)

        return greedy(following, self._first(batch), self.tokens, end=self.codec.end, pad=self.codec.pad)


def number_in(text: str) -> float:
    """Return a text as a number, 0.0 where it is none: the papers' rule for STS-B."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if np.isfinite(value) else 0.0


def check_columns(name: str, split: Split, source: RowSplit, templates: tuple[str, ...]) -> None:
    """Refuse a split without the columns that are needed.

    Raises:
        MissingData: naming the columns that are missing and those that are there.
    """
    absent = missing_columns(templates, source.columns)
    if absent:
        raise MissingData(
            f"{name}: the split {split!r} has no column {' and no column '.join(absent)}. It has: "
            f"{', '.join(source.columns)}. Name the column of labels in the task's columns, the others in its template."
        )


def text_codec_of(name: str, family: Family, base: Source | nn.Module) -> TextCodec:
    """Return the codec of a task's base.

    Raises:
        MissingPart: where the family does not write texts.
    """
    if not isinstance(family, HasTextToText):
        raise MissingPart(family.name, f"text output, which the task {name} is about")
    return family.text_codec(as_source(base))


class _Options(Config):
    """What a suite's YAML says of such a task under `options`."""

    prompt: Text | None = None
    template: Text | None = None
    targets: tuple[Text, ...] | None = None
    length: Count = LENGTH
    tokens: Count = TOKENS


@task("text_to_text")
def text_to_text_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> TextToTextTask:
    """Read a prompt and write the answer: exact match, or rank correlation where the answer is a number."""
    codec = text_codec_of(name, family, base)
    refuse_unused(name, spec, "class_names", "templates")
    options = _Options.read(spec.options, f"options of the task {name}")
    if (options.prompt is None) == (options.template is None):
        raise ConfigError(f"The task {name} needs options.prompt, such as glue/cola, or options.template, not both.")
    if options.prompt is not None and options.targets is not None:
        raise ConfigError(f"The task {name}: options.prompt brings its targets. Leave options.targets out.")
    if options.prompt is not None:
        prompt = prompt_named(options.prompt)
    else:
        words = {"template": options.template, "targets": options.targets}
        prompt = Prompt.read(words, f"options of the task {name}")
    if prompt.targets is not None and SPEARMAN.name in spec.metrics:
        raise ConfigError(f"The task {name}: spearman ranks numbers, its answers are {', '.join(prompt.targets)}.")
    metrics = chosen_metrics(name, spec.metrics, (ACCURACY, SPEARMAN))
    data = from_table(spec.dataset, config=spec.config, splits=spec.splits)
    return TextToTextTask(
        name, family, codec, prompt, data, spec.columns.label, metrics, spec.version, options.length, options.tokens
    )
