"""What an adapter does to one tensor of the base, a panel of rows at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fusionbench.kernels.tiles import WIDENED, widen
from fusionbench.weights.headers import NUMPY, Source, TensorSpec, entries

Array = np.ndarray[Any, Any]
Edit = Callable[[Array, int], None]
"""Changes rows of a tensor in place; the second argument is the first row's index."""
Panels = Callable[[], Iterator[tuple[int, Array]]]
"""One more pass over the base's rows: first index and values."""


class Change(Protocol):
    """An edit whose numbers are still in the adapter's file."""

    def load(self, adapter: Source, kind: str, panels: Panels) -> Edit:
        """Read the numbers as `kind`; `panels` reads the tensor that is to be changed."""
        ...


@dataclass(frozen=True, slots=True)
class LowRank:
    """W + s·B·A, and with a magnitude m the same rescaled to it: m · (W + s·B·A) / ‖W + s·B·A‖.

    LoRA is arXiv:2106.09685, Eq. 3; DoRA arXiv:2402.09353, Eq. 5, its norm over the inputs of each output.

    Attributes:
        a: name of A, `(r, in, …)`.
        b: name of B, `(out, r, …)`.
        scale: s.
        swapped: whether W is stored `(in, out)`.
        magnitude: name of m, `(out,)`.
    """

    a: str
    b: str
    scale: float
    swapped: bool = False
    magnitude: str | None = None

    def load(self, adapter: Source, kind: str, panels: Panels) -> Edit:
        """Read A and B, and the norms where there is a magnitude."""
        a, b = _matrix(adapter, self.a, kind), _matrix(adapter, self.b, kind) * NUMPY[kind](self.scale)
        left, right = (np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)) if self.swapped else (b, a)

        def add(values: Array, first: int) -> None:
            values += left[first : first + len(values)] @ right

        if self.magnitude is None:
            return add
        magnitude = _matrix(adapter, self.magnitude, kind).reshape(-1)
        columns = magnitude / _column_norms(panels, add).astype(NUMPY[kind]) if self.swapped else None

        def rescale(values: Array, first: int) -> None:
            add(values, first)
            if columns is not None:
                values *= columns
            else:
                values *= (magnitude[first : first + len(values)] / np.linalg.norm(values, axis=1))[:, None]

        return rescale


@dataclass(frozen=True, slots=True)
class Scaled:
    """W ⊙ l of (IA)³ (arXiv:2205.05638, §3.3): a factor for each row of W as it is stored, or for each column."""

    factor: str
    by_row: bool

    def load(self, adapter: Source, kind: str, panels: Panels) -> Edit:  # noqa: ARG002
        """Read l."""
        factor = _matrix(adapter, self.factor, kind).reshape(-1)

        def scale(values: Array, first: int) -> None:
            values *= factor[first : first + len(values), None] if self.by_row else factor

        return scale


@dataclass(frozen=True, slots=True)
class Shifted:
    """b + s·c: the bias that B has of its own."""

    shift: str
    scale: float

    def load(self, adapter: Source, kind: str, panels: Panels) -> Edit:  # noqa: ARG002
        """Read c."""
        shift = _matrix(adapter, self.shift, kind).reshape(-1, 1) * NUMPY[kind](self.scale)

        def add(values: Array, first: int) -> None:
            values += shift[first : first + len(values)]

        return add


def widened(source: Source, spec: TensorSpec, kind: str, start: int = 0, stop: int | None = None) -> Array:
    """Return flat entries of a tensor as numbers of `kind` ("F32" or "F64"), in memory of their own."""
    raw = entries(source, spec, start, stop)
    if spec.dtype in WIDENED:
        values: Array = np.empty(len(raw), np.float32)
        widen(raw, spec.dtype, values)
        return values.astype(NUMPY[kind], copy=False)
    if spec.dtype == "F64":
        return raw.astype(NUMPY[kind])
    from fusionbench.weights.tensors import TORCH, as_tensor

    wide: Array = as_tensor(raw.view(np.uint8), spec.dtype, (len(raw),)).to(TORCH[kind]).numpy()
    return wide


def _matrix(adapter: Source, name: str, kind: str) -> Array:
    spec = adapter.specs[name]
    values = widened(adapter, spec, kind)
    return values.reshape(spec.shape[0] if spec.shape else 1, -1)


def _column_norms(panels: Panels, add: Edit) -> Array:
    total: Array | float = 0.0
    for first, values in panels():
        add(values, first)
        total = total + np.square(values, dtype=np.float64).sum(axis=0)
    norms: Array = np.sqrt(total)
    return norms
