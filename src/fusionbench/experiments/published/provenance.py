"""Where each printed row comes from: which code made it, how that is known, and whether anybody can make it again."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast

from fusionbench.errors import ConfigError
from fusionbench.experiments.published import _rows, files
from fusionbench.registry import suggestion

Evidence = Literal["code", "digits", "inferred"]
ALL = "*"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is known of the making of a printed row.

    Attributes:
        code: whose program computed it, or that it was quoted.
        evidence: how this is known: read in public code, shown by equal printed digits, or inferred.
        settings: what changes its numbers.
        remake: whether it can be made again ("yes", "near", "by files", "orderings only", "no"), and why.
    """

    code: str
    evidence: Evidence
    settings: str
    remake: str

    @property
    def quoted(self) -> bool:
        """Whether the paper took the row from another one."""
        return self.code.startswith("quoted")


def provenance(file: str, method: str) -> Provenance:
    """Return where a row of a published table comes from.

    Args:
        file: the table's, as the index lists it.
        method: the tables' name of the row.

    Raises:
        ConfigError: where nothing is known of such a row.
    """
    known = _known()
    table = "_".join(file.split("_")[:2])
    found = known.get((table, method)) or known.get((table, ALL))
    if file not in files() or found is None:
        rows = sorted({name for held, name in known if held == table}) or sorted(files())
        raise ConfigError(f"Nothing is known of a row {method!r} of {file}. {suggestion(method, rows)}")
    return found


@cache
def _known() -> Mapping[tuple[str, str], Provenance]:
    found: dict[tuple[str, str], Provenance] = {}
    for row in _rows("provenance.csv"):
        evidence = cast(Evidence, row["evidence"])
        for method in row["methods"].split():
            found[row["table"], method] = Provenance(row["code"], evidence, row["settings"], row["remake"])
    return found


@dataclass(frozen=True, slots=True)
class Name:
    """What a printed name is called here.

    Attributes:
        ours: a method, a task, a metric or a key of recipes; "" where nothing here stands for it.
        parameters: of a method, that go with the name.
        note: what is to be known.
    """

    ours: str
    parameters: Mapping[str, str]
    note: str


@cache
def printed_names() -> Mapping[tuple[str, str], Name]:
    """Return our name of each printed one by (kind, printed name); kinds: method, dataset, metric, variant."""
    return {
        (row["kind"], row["printed"]): Name(
            row["ours"],
            dict(pair.split("=", 1) for pair in row["parameters"].split()),
            row["note"],
        )
        for row in _rows("names.csv")
    }


@cache
def printed_cosines(suite: str) -> Mapping[tuple[str, str], float]:
    """Return the printed cosine similarities of task vectors by (row, column), as far as a text has them in full.

    They are those of figure 6 of FusionBench's later text, rounded to two decimals.

    Args:
        suite: clip-vit-b32/ta8 or clip-vit-l14/ta8.

    Raises:
        ConfigError: where none are printed for that suite.
    """
    rows = _rows("figure_cosine.csv")
    found = {(row["row"], row["column"]): float(row["value"]) for row in rows if row["suite"] == suite}
    if not found:
        raise ConfigError(f"No cosines are printed for {suite}. {suggestion(suite, [row['suite'] for row in rows])}")
    return found
