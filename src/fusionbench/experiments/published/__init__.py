"""The papers' printed tables, one tidy CSV each: value as printed (× 100), with a note where a cell is in doubt."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fusionbench.errors import ConfigError
from fusionbench.registry import suggestion

FOLDER = Path(__file__).resolve().parent
INDEX = "index.csv"
DOUBTFUL = ("garbled", "misread", "missing", "misprint", "suspect", "not reported")
"""Tags of a note that make a printed value no target: it is shown, and gets no verdict."""
AVERAGE = "average"


@dataclass(frozen=True, slots=True)
class Cell:
    """One printed cell.

    Attributes:
        method: the tables' name of the row.
        variant: further settings of the row, such as {"scaling": "0.3"}.
        dataset: the column, `average` for the printed average.
        metric: what it is.
        value: as printed, × 100 (angles in degrees); None where it cannot be read.
        note: what is to be known of it.
    """

    method: str
    variant: tuple[tuple[str, str], ...]
    dataset: str
    metric: str
    value: float | None
    note: str

    @property
    def sound(self) -> bool:
        """Whether the value may be compared with."""
        tags = [part.strip().partition(":")[0] for part in self.note.split("|")]
        return self.value is not None and not any(tag in DOUBTFUL for tag in tags)


def files() -> tuple[str, ...]:
    """Return the names of all tables, as the index lists them."""
    return tuple(row["file"] for row in _rows(INDEX))


def about(file: str) -> dict[str, str]:
    """Return what the index says of a table: paper, table, title, methods, datasets, what must vary.

    Raises:
        ConfigError: where there is no such table.
    """
    for row in _rows(INDEX):
        if row["file"] == file:
            return row
    raise ConfigError(f"There is no published table {file!r}. {suggestion(file, list(files()))}")


@cache
def cells(file: str) -> tuple[Cell, ...]:
    """Return the cells of a table.

    Raises:
        ConfigError: where there is no such table.
    """
    about(file)
    return tuple(_cells(file))


def _cells(file: str) -> Iterator[Cell]:
    for row in _rows(file):
        variant = tuple(tuple(part.split("=", 1)) for part in row["variant"].split(";") if part)
        # A table whose columns were printed in another order carries the right one beside it.
        dataset = row.get("dataset_corrected") or row["dataset"]
        value = float(row["value"]) if row["value"] else None
        yield Cell(row["method"], variant, dataset, row["metric"], value, row["note"])  # type: ignore[arg-type]


@cache
def _rows(name: str) -> tuple[dict[str, str], ...]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
