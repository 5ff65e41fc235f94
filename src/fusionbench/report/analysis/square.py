"""A matrix with a name for each row and column: what several analyses give, and how it is written."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Square:
    """A named matrix, not always square: transfer has models as rows and tasks as columns.

    Attributes:
        title: what its values are, as a caption.
        rows: their names.
        columns: their names.
        values: `(rows, columns)`; NaN where there is none.
        low: the smallest value of the scale; None takes that of the values.
        high: the largest.
        percent: whether values are shares that people read as percent.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: NDArray[np.float64]
    low: float | None = None
    high: float | None = None
    percent: bool = False

    @property
    def caption(self) -> str:
        """What its values are, with their unit where they have one."""
        return f"{self.title} (%)" if self.percent else self.title

    def to_csv(self) -> str:
        """Return the matrix as CSV in full precision, with a column of row names."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["", *self.columns])
        for name, values in zip(self.rows, self.values, strict=True):
            writer.writerow([name, *("" if np.isnan(value) else repr(float(value)) for value in values)])
        return text.getvalue()

    def cell(self, row: int, column: int) -> str:
        """Return a value as people read it: two digits, or percent with one."""
        value = float(self.values[row, column])
        if np.isnan(value):
            return "–"
        # A rounded zero has no sign.
        return f"{round(100 * value, 1) + 0.0:.1f}" if self.percent else f"{round(value, 2) + 0.0:.2f}"
