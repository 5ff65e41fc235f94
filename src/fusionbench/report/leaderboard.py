"""Methods ranked by suite: the mean over seeds of average and normalized score, yardsticks beside them."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

from fusionbench.records import Run
from fusionbench.report.formats import latex, markdown_row
from fusionbench.report.labels import Entry, abbreviated, differing, entries_of, shown
from fusionbench.report.tables import REFERENCES, suite_title

LEGEND = "Average and normalized score (divided by the experts' own) in %, means over seeds; yardsticks are not ranked."
COLUMNS = ("rank", "method", "average", "s.e.", "normalized", "seeds", "parameters", "bytes")


@dataclass(frozen=True, slots=True)
class Standing:
    """One method with one choice of parameters, over all its seeds.

    Attributes:
        method: its name.
        rank: 1 is the best; None for yardsticks, which are not ranked.
        label: the method, with what tells it from its other rows.
        average: mean over the seeds of the average over the seen tasks, a fraction.
        stderr: standard error of that mean over seeds; None for one seed.
        normalized: mean of the scores divided by the experts' own.
        seeds: how many runs.
        parameters: of the fused model.
        bytes: of the fused model.
        runs: folders of the runs behind it.
    """

    method: str
    rank: int | None
    label: str
    average: float
    stderr: float | None
    normalized: float | None
    seeds: int
    parameters: int | None
    bytes: int | None
    runs: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Board:
    """The standings of one suite on one set of seen tasks, the best first, yardsticks on top."""

    title: str
    standings: tuple[Standing, ...]


def leaderboards(runs: Sequence[Run]) -> list[Board]:
    """Return a board for each suite, size, scored data and set of seen tasks; runs without an average are left out."""
    grouped: dict[tuple[str, tuple[str, ...]], list[Entry]] = {}
    for entry in entries_of(runs):
        seen = tuple(sorted(task for task, scores in entry.variant.tasks.items() if scores.seen))
        if _average(entry) is not None:
            grouped.setdefault((suite_title(entry.run), seen), []).append(entry)
    several = {title for title, _ in grouped if sum(other == title for other, _ in grouped) > 1}
    return [
        Board(f"{title}: {', '.join(seen)}" if title in several else title, _standings(entries))
        for (title, seen), entries in grouped.items()
    ]


def _average(entry: Entry) -> float | None:
    return next(iter(entry.variant.average.values()), None) if entry.variant.average else None


def _standings(entries: Sequence[Entry]) -> tuple[Standing, ...]:
    same: dict[str, list[Entry]] = {}
    for entry in entries:
        same.setdefault(_choice(entry), []).append(entry)
    found = [_standing(group, entries) for group in same.values()]
    yardsticks = sorted((s for s in found if s.method in REFERENCES), key=lambda s: REFERENCES.index(s.method))
    ranked = sorted((s for s in found if s.method not in REFERENCES), key=lambda s: -s.average)
    return (*yardsticks, *(replace(standing, rank=rank) for rank, standing in enumerate(ranked, start=1)))


def _choice(entry: Entry) -> str:
    """Return what makes two rows one method: everything that was chosen but seeds and builds."""
    kept = {key: value for key, value in entry.settings.items() if not key.startswith(("seed", "suite."))}
    return json.dumps([entry.method, kept], sort_keys=True, default=str)


def _standing(group: Sequence[Entry], entries: Sequence[Entry]) -> Standing:
    averages = [value for entry in group if (value := _average(entry)) is not None]
    shares = [entry.variant.normalized for entry in group if entry.variant.normalized is not None]
    facts = group[0].variant.model
    stderr = stdev(averages) / len(averages) ** 0.5 if len(averages) > 1 else None
    return Standing(
        group[0].method,
        None,
        _label(group[0], entries),
        fmean(averages),
        stderr,
        fmean(shares) if shares else None,
        len(group),
        facts.parameters if facts else None,
        facts.bytes if facts else None,
        tuple(dict.fromkeys(entry.run.folder for entry in group)),
    )


def _label(entry: Entry, entries: Sequence[Entry]) -> str:
    """Return the method's name with the settings in which its rows differ, seeds aside."""
    others = [other for other in entries if other.method == entry.method]
    keys = [key for key in differing(others) if not key.startswith(("seed", "suite."))]
    texts = {key: abbreviated([other.settings.get(key) for other in others]) for key in keys}
    said = ", ".join(f"{key}={texts[key][shown(entry.settings.get(key))]}" for key in keys)
    return f"{entry.method} ({said})" if said else entry.method


def _cells(standing: Standing) -> list[str]:
    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    return [
        "–" if standing.rank is None else str(standing.rank),
        standing.label,
        percent(standing.average),
        percent(standing.stderr),
        percent(standing.normalized),
        str(standing.seeds),
        "–" if standing.parameters is None else f"{standing.parameters:,}",
        "–" if standing.bytes is None else f"{standing.bytes:,}",
    ]


def as_markdown(boards: Sequence[Board]) -> str:
    """Return the boards as Markdown: average and normalized score in %, sizes of the fused model."""
    parts = []
    for board in boards:
        lines = [f"## {board.title}", "", markdown_row(COLUMNS), "|---" * len(COLUMNS) + "|"]
        lines += [markdown_row(_cells(standing)) for standing in board.standings]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, LEGEND]) + "\n"


def as_latex(boards: Sequence[Board]) -> str:
    """Return the boards as floating tables in LaTeX, for a document that loads booktabs."""
    parts = []
    for board in boards:
        lines = [r"\begin{table}", r"  \centering", rf"  \caption{{{latex(f'{board.title}: {LEGEND}')}}}"]
        lines += [rf"  \begin{{tabular}}{{rl{'r' * (len(COLUMNS) - 2)}}}", r"    \toprule"]
        lines += [rf"    {' & '.join(map(latex, COLUMNS))} \\", r"    \midrule"]
        for index, standing in enumerate(board.standings):
            if index and standing.rank == 1 and board.standings[index - 1].rank is None:
                lines.append(r"    \midrule")
            lines.append(rf"    {' & '.join(map(latex, _cells(standing)))} \\")
        parts.append("\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]))
    return "\n\n".join(parts) + "\n"


def as_csv(boards: Sequence[Board]) -> str:
    """Return the boards as CSV in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["suite", *COLUMNS])
    for board in boards:
        for s in board.standings:
            writer.writerow(
                [board.title, s.rank, s.label, s.average, s.stderr, s.normalized, s.seeds, s.parameters, s.bytes]
            )
    return text.getvalue()
