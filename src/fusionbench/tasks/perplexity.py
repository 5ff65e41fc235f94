"""Perplexity: how surprised a model is, token by token, by texts that somebody else wrote."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fusionbench.config import Config
from fusionbench.config.fields import Count
from fusionbench.errors import ConfigError, MissingData
from fusionbench.families import Backbone, Batch, Family, TextCodec
from fusionbench.tasks.base import Metric, Predictor, Rows, Split
from fusionbench.tasks.dense_metrics import Floats, over_examples
from fusionbench.tasks.outputs import entropies, finite
from fusionbench.tasks.reading import reading, split_of
from fusionbench.tasks.registration import task
from fusionbench.tasks.seq2seq import LENGTH, NO_LABEL, WRITTEN, check_columns, text_codec_of
from fusionbench.tasks.spec import TaskSpec, refuse_unused
from fusionbench.tasks.table_data import Ragged, RowSplit, from_table, prepared
from fusionbench.weights.headers import Source

LABELS, REAL = "labels", "real"
BETWEEN = "\n\n"


def token_loss(rows: Rows) -> tuple[float, float]:
    """Return Σ loss / Σ tokens over the examples, in nats a token, and its standard error by bootstrap over them.

    Args:
        rows: "loss", `(examples,)`: Σ −log p of an example's tokens in nats, and "tokens", how many they are.
    """
    return over_examples(rows, ("loss", "tokens"), _mean)


def perplexity(rows: Rows) -> tuple[float, float]:
    """Return exp(Σ loss / Σ tokens) and its standard error by bootstrap over examples; rows as for `token_loss`."""

    def statistic(loss: Floats, tokens: Floats) -> Floats:
        found: Floats = np.exp(_mean(loss, tokens))
        return found

    return over_examples(rows, ("loss", "tokens"), statistic)


def _mean(loss: Floats, tokens: Floats) -> Floats:
    return loss / tokens


PERPLEXITY = Metric("perplexity", "perplexity", "lower", perplexity)
TOKEN_LOSS = Metric("token_loss", "nats", "lower", token_loss)


@dataclass(frozen=True)
class PerplexityTask:
    """Predict each token of a text from those before it; implements `Task`.

    A text's first token, which is the start token where the tokenizer adds one, is given and not predicted.

    Attributes:
        name: in tables; seeds the order of examples.
        family: one that writes texts.
        codec: from texts to tokens.
        data: the splits that there are.
        text: the column of texts.
        metrics: the primary one first.
        version: raised when the task's numbers change.
        length: the most tokens of a text; the rest is cut off.
        joined: whether a split's texts are joined by blank lines and cut into pieces of `length` tokens, an example
            each, the rest left out, as for WikiText in Wanda (arXiv:2306.11695).
    """

    name: str
    family: Family
    codec: TextCodec
    data: Mapping[Split, RowSplit]
    text: str = "text"
    metrics: tuple[Metric, ...] = (PERPLEXITY, TOKEN_LOSS)
    version: int = 1
    length: int = LENGTH
    joined: bool = False

    def size(self, split: Split) -> int:
        """Return the number of examples of a split; see `Task.size`."""
        count = split_of(self.name, self.data, split).count
        return len(self._prepared(split).ends) if self.joined else count

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
        """Yield batches of `size` texts of a split. See `Task.batches` for the arguments.

        "input_ids" and "attention_mask" are of the first token, `(size, 1)`; "decoder_input_ids" `(size, tokens)` what
        is before each of the others, and "real" where there is one; "labels" the others, −100 behind them; all int64.

        Raises:
            MissingData: where the split is not there or empty, lacks the column, or has a text of fewer than two
                tokens.
        """
        order = reading(self.name, split, self.size(split), size=size, seed=seed, start=start, limit=limit)
        texts = self._prepared(split)
        for indices in order:
            lines = [texts.line(index) for index in indices]
            batch = self.family.collate([{"input_ids": line[:1], "label": line[1:]} for line in lines], self.codec)
            said = batch[LABELS]
            before = torch.cat([torch.full_like(said[:, :1], self.codec.start), said[:, :-1]], dim=1)
            batch[WRITTEN] = before.masked_fill(before == NO_LABEL, self.codec.pad)
            batch[REAL] = (said != NO_LABEL).long()
            if not labels:
                del batch[LABELS]
            yield batch

    def _prepared(self, split: Split) -> Ragged:
        source = split_of(self.name, self.data, split)
        check_columns(self.name, split, source, (f"{{{self.text}}}",))

        def make() -> dict[str, list[list[int]]]:
            texts = [str(row[self.text]) for row in source.read()]
            found = self._pieces(texts) if self.joined else self.codec.encode(texts, self.length)
            self._check(split, found)
            return {"texts": found}

        return prepared(source.digest, (self.codec.digest, "perplexity", self.text, self.length, self.joined), make)[
            "texts"
        ]

    def _pieces(self, texts: list[str]) -> list[list[int]]:
        (tokens,) = self.codec.encode([BETWEEN.join(texts)], 2**31)
        return [tokens[at : at + self.length] for at in range(0, len(tokens) - self.length + 1, self.length)]

    def _check(self, split: Split, found: list[list[int]]) -> None:
        short = next((place for place, line in enumerate(found) if len(line) < 2), None)
        if short is not None:
            raise MissingData(
                f"{self.name}: example {short} of the split {split!r} has fewer than two tokens, so that there is none "
                "to predict. Leave such texts out."
            )

    def bind(self, backbone: Backbone) -> Predictor:
        """Return the logits of each token but the first, `(examples, tokens, vocabulary)`."""

        def predict(batch: Batch) -> Tensor:
            return self.family.features(backbone, {key: item for key, item in batch.items() if key != LABELS})

        return predict

    def loss(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy over all predicted tokens of the batch, in nats."""
        logits: Tensor = predict(batch)
        return cross_entropy(logits.flatten(0, 1), batch[LABELS].to(logits.device).flatten(), ignore_index=NO_LABEL)

    def objective(self, predict: Predictor, batch: Batch) -> Tensor:
        """Return the mean over texts of the mean entropy of their tokens' predictions, in nats."""
        found = entropies(predict(batch))
        real = batch[REAL].to(found.device)
        mean: Tensor = ((found * real).sum(dim=-1) / real.sum(dim=-1)).mean()
        return mean

    def rows(self, predict: Predictor, batch: Batch) -> Rows:
        """Return "loss", `(examples,)` float64: Σ −log p of a text's tokens in nats, and "tokens", their number.

        Raises:
            NotFinite: where a text's loss is NaN or Inf, so that it means nothing.
        """
        logits: Tensor = predict(batch)
        labels = batch[LABELS].to(logits.device)
        lost = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL, reduction="none")
        loss = finite(lost.view_as(labels).double().sum(dim=-1).cpu(), self.name, "losses")
        return {"loss": loss.numpy(), "tokens": batch[REAL].sum(dim=-1).cpu().numpy()}


class _Options(Config):
    """What a suite's YAML says of such a task under `options`."""

    length: Count = LENGTH
    joined: bool = False


@task("perplexity", version=2)
def perplexity_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> PerplexityTask:
    """Predict each token of a text from those before it; perplexity, where lower is better."""
    codec = text_codec_of(name, family, base)
    refuse_unused(name, spec, "class_names", "templates")
    options = _Options.read(spec.options, f"options of the task {name}")
    if "metrics" in spec.model_fields_set:
        raise ConfigError(f"The task {name}: perplexity has its own metrics. Leave metrics out.")
    if options.length < 2:
        raise ConfigError(f"options of the task {name}: length is {options.length}; of one token none is predicted.")
    data = from_table(spec.dataset, config=spec.config, splits=spec.splits)
    return PerplexityTask(
        name, family, codec, data, spec.columns.text, version=spec.version, length=options.length, joined=options.joined
    )
