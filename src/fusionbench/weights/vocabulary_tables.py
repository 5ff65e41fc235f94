"""A model whose tables of tokens are read in another order of rows. No torch here."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusionbench.errors import IncompatibleModels
from fusionbench.kernels.tiles import BLOCK, WIDENED, narrow
from fusionbench.weights.headers import NUMPY, Source, TensorSpec, as_buffer, entries
from fusionbench.weights.roles import role
from fusionbench.weights.vocabulary import MEAN, MODELS, PADDING, ZERO, Alignment, vocabulary_size

Array = np.ndarray[Any, Any]
_POSITIONS = re.compile(r"wpe|position|token_type", re.IGNORECASE)
_BIASES = re.compile(
    r"(^|\.)(lm_head(\.(decoder|linear))?|predictions(\.decoder)?|vocab_projector|embed_out|final_logits)[._]bias$"
)
_HEADS = re.compile(
    r"(^|\.)(lm_head\.(decoder|linear)|predictions\.decoder|vocab_projector|output_layer|output)\.weight$"
)
"""Heads of language models that have names of their own: RoBERTa's, BERT's, DistilBERT's, ChatGLM's, InternLM2's."""


def is_table(spec: TensorSpec, size: int) -> bool:
    """Tell whether a tensor has one row a token: embeddings, heads of language models and their biases."""
    if not spec.is_float or not spec.shape or spec.shape[0] != size or _POSITIONS.search(spec.name):
        return False
    if len(spec.shape) == 1:
        return bool(_BIASES.search(spec.name))
    return role(spec) in ("embedding", "head") or (len(spec.shape) == 2 and bool(_HEADS.search(spec.name)))


class AlignedSource:
    """A model seen through an alignment: its tables have the result's rows, all else is as it was.

    Rows are put together as they are read; of no table more is in memory than what is asked for. What another model
    lends is rounded to this model's kind of number once.
    """

    def __init__(self, index: int, sources: Sequence[Source], alignment: Alignment) -> None:
        """See the model at `index` of an alignment's models.

        Raises:
            IncompatibleModels: where a table has another kind of number than these rows can be made in, or a donor
                lacks it.
        """
        self._source, self._sources = sources[index], sources
        self.label = self._source.label
        self.config: Mapping[str, Any] = self._source.config
        self.folder: Path | None = self._source.folder
        self.metadata: Mapping[str, str] = getattr(self._source, "metadata", {})
        """What the model's file says of its making."""
        self._index, self._alignment = index, alignment
        size = vocabulary_size(self._source)
        self._tables = {name: spec for name, spec in self._source.specs.items() if is_table(spec, size)}
        rows = alignment.rows
        self.specs: Mapping[str, TensorSpec] = {
            name: spec._replace(shape=(rows, *spec.shape[1:])) if name in self._tables else spec
            for name, spec in self._source.specs.items()
        }
        self._means: dict[tuple[str, int], Array] = {}
        self._check()

    def fingerprint(self) -> str:
        """Return the model's own digest; the recipe says how it is seen."""
        return self._source.fingerprint()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of flat entries `start` to `stop` of a tensor."""
        if name not in self._tables:
            return self._source.read(name, start, stop)
        width = self._width(name)
        stop = self.specs[name].size if stop is None else stop
        first, last = start // width, -(-stop // width)
        rows = self._rows(name, np.arange(first, last)).reshape(-1)
        return as_buffer(np.ascontiguousarray(rows[start - first * width : stop - first * width]))

    def _width(self, name: str) -> int:
        return max(1, self._tables[name].size // max(self._tables[name].shape[0], 1))

    def _check(self) -> None:
        problems = [
            f"  {self.label}: {name} holds {spec.dtype}"
            for name, spec in self._tables.items()
            if spec.dtype not in (*WIDENED, "F64")
        ]
        lenders = {int(d) for d in np.unique(self._alignment.donor) if d >= 0}
        problems += [
            f"  {other.label}: lends rows of {name}, which it has not in this shape"
            for name, spec in self._tables.items()
            for number, other in enumerate(self._sources)
            if number in lenders and (name not in other.specs or other.specs[name].shape[1:] != spec.shape[1:])
        ]
        if problems:
            raise IncompatibleModels("\n".join(["Rows of tokens cannot be brought together:", *problems]))

    def _rows(self, name: str, rows: Array) -> Array:
        """Return rows of a table, by their numbers in the result, in the bits of its kind."""
        spec, found = self._tables[name], self._alignment
        table = entries(self._source, spec).reshape(spec.shape[0], -1)
        own, donor = found.own[self._index, rows], found.donor[rows]
        kept = (own >= 0) & ~found.forced[rows]
        result: Array = np.zeros((len(rows), table.shape[1]), NUMPY[spec.dtype])
        result[kept] = table[own[kept]]
        lacking = np.flatnonzero(~kept & (donor != ZERO))
        if len(lacking):
            result[lacking] = _narrowed(self._lent(name, rows[lacking]), spec.dtype)
        return result

    def _lent(self, name: str, rows: Array) -> Array:
        """Return the rows that this model does not have itself, in float64."""
        found = self._alignment
        result: Array = np.zeros((len(rows), self._width(name)))
        for kind in np.unique(found.donor[rows]):
            at = np.flatnonzero(found.donor[rows] == kind)
            if kind in (MEAN, PADDING):
                result[at] = self._mean(name, int(kind))
            elif kind == MODELS:
                result[at] = self._models_mean(name, rows[at])
            else:
                result[at] = _wide_rows(self._sources[kind], name, found.donor_row[rows[at]])
        return result

    def _models_mean(self, name: str, rows: Array) -> Array:
        total, count = np.zeros((len(rows), self._width(name))), np.zeros((len(rows), 1))
        for source, own in zip(self._sources, self._alignment.own, strict=True):
            has = own[rows] >= 0
            if has.any() and name in source.specs:
                total[has] += _wide_rows(source, name, own[rows][has])
                count[has] += 1
        return total / np.maximum(count, 1)

    def _mean(self, name: str, kind: int) -> Array:
        """Return the mean of the model's own tokens, or, for padding, of all rows that have a token; taken once."""
        if (name, kind) not in self._means:
            found = self._alignment
            tokens = np.flatnonzero(found.donor != PADDING)
            if kind == MEAN:
                tokens = tokens[found.own[self._index, tokens] >= 0]
            total = np.zeros(self._width(name))
            step = max(1, BLOCK // self._width(name))
            for start in range(0, len(tokens), step):
                part = tokens[start : start + step]
                rows = (
                    _wide_rows(self._source, name, found.own[self._index, part])
                    if kind == MEAN
                    else _widened(self._rows(name, part), self._tables[name].dtype)
                )
                total += rows.sum(axis=0)
            self._means[name, kind] = total / max(len(tokens), 1)
        return self._means[name, kind]


def _wide_rows(source: Source, name: str, rows: Array) -> Array:
    spec = source.specs[name]
    return _widened(entries(source, spec).reshape(spec.shape[0], -1)[rows], spec.dtype)


def _widened(bits: Array, dtype: str) -> Array:
    """Return numbers in float64 from the bits of a kind."""
    return (
        (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        if dtype == "BF16"
        else bits.astype(np.float64)
    )


def _narrowed(values: Array, dtype: str) -> Array:
    """Return numbers as the bits of a kind."""
    if dtype == "F64":
        return values
    result: Array = np.empty(values.shape, NUMPY[dtype])
    narrow(values.astype(np.float32), dtype, result, np.empty(values.shape, np.uint32))
    return result
