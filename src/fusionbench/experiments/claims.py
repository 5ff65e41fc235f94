"""What papers say of their tables, and whether it holds here: one number is larger than another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fusionbench.experiments.answer import Line, Value, own_name
from fusionbench.experiments.model import Claim, Experiment
from fusionbench.experiments.printed import UNSEEN
from fusionbench.experiments.published import AVERAGE


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim with our two values and the printed ones; None where one of them is missing.

    Attributes:
        text: the claim.
        higher: row, column and varied value that are said to be larger.
        lower: those that are said to be smaller.
        ours: both values here.
        printed: both values in the tables.
        stderr: of the difference of our two values, as if their errors were independent; None where one has none.
        missing: the other experiment that has to be run first; "" where none is missing.
    """

    text: str
    higher: str
    lower: str
    ours: tuple[float, float] | None
    printed: tuple[float, float] | None = None
    stderr: float | None = None
    missing: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether it holds in our runs; None where it cannot be said."""
        return None if self.ours is None else self.ours[0] > self.ours[1]

    @property
    def close(self) -> bool:
        """Whether our values are no further apart than two standard errors, so that chance may have ordered them."""
        return self.ours is not None and self.stderr is not None and abs(self.ours[0] - self.ours[1]) <= 2 * self.stderr


def judged(
    experiment: Experiment,
    lines: Sequence[Line],
    *,
    same_tasks: bool = True,
    elsewhere: Mapping[str, Sequence[Line]] | None = None,
) -> list[Judged]:
    """Return the claims with our values and the printed ones; along a varied key, a row counts by its mean.

    Args:
        experiment: whose claims they are.
        lines: the rows that were run.
        same_tasks: whether our tasks are the papers'; on a stand-in only averages can be said anything of.
        elsewhere: rows of other experiments by name, for claims that span two tables.
    """
    return [_judged(experiment, claim, lines, same_tasks, elsewhere or {}) for claim in experiment.claims]


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a claim: a row, or the gap between two, of one experiment.

    Attributes:
        label: of the row.
        less: of the row whose value is subtracted; None for none.
        column: the tables' name.
        at: varied values, in the tables' words.
        place: name of the experiment, where it is another one.
        lines: of that experiment.
    """

    label: str
    less: str | None
    column: str
    at: Mapping[str, str]
    place: str | None
    lines: Sequence[Line]

    @property
    def name(self) -> str:
        """What is compared, in words."""
        words = [self.label if self.less is None else f"{self.label} − {self.less}"]
        words += [] if self.column == AVERAGE else [f"on {self.column}"]
        words += [f"{key}={value}" for key, value in self.at.items()]
        return " ".join([*words, *([f"of {self.place}"] if self.place else [])])

    def ours(self, own: str) -> tuple[float | None, list[float | None]]:
        """Return our value of the column that is called `own` here, and the standard errors that it has."""
        parts = [[line.values[own] for line in self._rows(label) if own in line.values] for label in self._labels]
        errors = [_error(value, len(values)) for values in parts for value in values]
        return _difference([[value.value for value in values] for values in parts]), errors

    def printed(self) -> float | None:
        """Return the printed value."""
        rows = [[line.printed.get(self.column) for line in self._rows(label)] for label in self._labels]
        return _difference([[value for value in values if value is not None] for values in rows])

    @property
    def _labels(self) -> list[str]:
        return [self.label, *([] if self.less is None else [self.less])]

    def _rows(self, label: str) -> list[Line]:
        return [line for line in self.lines if line.label == label and self.at.items() <= dict(line.varied).items()]


def _error(value: Value, count: int) -> float | None:
    return None if value.stderr is None else value.stderr / count


def _difference(parts: Sequence[Sequence[float]]) -> float | None:
    """Return the mean of the first part, less that of the second where there is one; None where one is empty."""
    if not all(parts):
        return None
    first, *others = map(fmean, parts)
    return first - sum(others)


def _judged(
    experiment: Experiment, claim: Claim, lines: Sequence[Line], same_tasks: bool,
    elsewhere: Mapping[str, Sequence[Line]],
) -> Judged:  # fmt: skip
    """Return a claim with the values of its two sides."""
    others = lines if claim.lower_in is None else elsewhere.get(claim.lower_in, ())
    column = claim.lower_column or claim.column
    at = claim.at if claim.lower_at is None else claim.lower_at
    sides = (
        _Side(claim.higher, claim.less, claim.column, claim.at, None, lines),
        _Side(claim.lower, claim.less, column, at, claim.lower_in, others),
    )
    found = [side.ours(own_name(experiment, side.column)) for side in sides]
    comparable = [same_tasks or side.column in (AVERAGE, UNSEEN) for side in sides]
    values = [value if known else None for (value, _), known in zip(found, comparable, strict=True)]
    errors = [error for _, each in found for error in each]
    known = [error for error in errors if error is not None]
    stderr = math.hypot(*known) if len(known) == len(errors) else None
    missing = claim.lower_in if claim.lower_in is not None and values[1] is None else ""
    printed = _pair([side.printed() for side in sides])
    return Judged(claim.text, sides[0].name, sides[1].name, _pair(values), printed, stderr, missing)


def _pair(values: Sequence[float | None]) -> tuple[float, float] | None:
    first, second = values
    return None if first is None or second is None else (first, second)
