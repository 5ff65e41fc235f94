"""An answer as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Mapping

from fusionbench.experiments.answer import NORMALIZED, Line, own_name
from fusionbench.experiments.printed import COSINE, UNSEEN, cosines_of
from fusionbench.experiments.published import AVERAGE
from fusionbench.experiments.reproduce import Answer
from fusionbench.report.analysis import Square
from fusionbench.report.formats import latex, markdown_row

NOTE = "note"


def columns_of(answer: Answer) -> list[str]:
    """Return the tables' names of the columns that we have values for, averages last."""
    found: dict[str, None] = {}
    for line in answer.lines:
        own = {own_name(answer.experiment, name): name for name in line.printed}
        told_by_metric = {name.partition("/")[0] for name in own if "/" in name}
        for name in line.values:
            if name in own or ("/" not in name and name not in told_by_metric):
                found.setdefault(own.get(name, name), None)
    last = (AVERAGE, UNSEEN, NORMALIZED)
    return [*(name for name in found if name not in last), *(name for name in last if name in found)]


def legend(answer: Answer) -> str:
    """Return what the cells say, and how many of them agree with the printed ones."""
    if answer.matrix is not None and not answer.lines:
        beside = "Ours, the printed value in brackets; ≠ where they differ by more than"
        return f"{beside} {COSINE}: half of the last printed digit, and 0.01." if _beside(answer) else ""
    ours = "Ours (× 100; angles in degrees and perplexities as they are)"
    if answer.experiment.relative_to is not None:
        ours += f"; {NORMALIZED}: the mean of the tasks' values divided by those of {answer.experiment.relative_to}"
    if answer.which == "mini":
        printed = any(value is not None for line in answer.lines for value in line.printed.values())
        beside = "; in brackets the papers' averages on their own suite: other data, so no cell is judged"
        return f"{ours}{beside if printed else ''}."
    told = [verdict for line in answer.lines for verdict in line.verdicts.values() if verdict]
    count = f"{told.count('agrees')} of {len(told)} judged cells agree." if told else "No cell gets a verdict."
    return f"{ours}, the printed value in brackets; ≠ where they differ by more than the row's rule allows. {count}"


def headline(answer: Answer) -> list[str]:
    """Return the sentences that stand above the table."""
    experiment = answer.experiment
    place = (
        f"Run on the papers' suite {experiment.suite['name']}."
        if answer.which == "paper"
        else f"Run on the offline stand-in {experiment.stand_in['name']}: other numbers, only orders compare."
    )
    said = [f"{experiment.title} ({experiment.paper}).", place]
    if answer.profile and experiment.shorter[answer.profile]:
        rows = {row.method["name"] for row in experiment.rows}
        shorter = {name: found for name, found in experiment.shorter[answer.profile].items() if name in rows}
        words = [f"{name} with {', '.join(f'{k}={v}' for k, v in found.items())}" for name, found in shorter.items()]
        said += [f"A shorter schedule was run ({answer.profile}): {'; '.join(words)}."] if words else []
    if answer.profile and (left := experiment.fewer.get(answer.profile)):
        said += [f"Of {experiment.variant.get(k, k)} only {', '.join(map(str, values))}." for k, values in left.items()]
    if len(answer.seeds) > 1:
        listed = ", ".join(map(str, answer.seeds))
        said.append(f"Means over the seeds {listed}; ± is the standard error over seeds.")
    said += [
        f"Order of {found.rows} {found.of} by average against the printed one: "
        f"Kendall's τ = {found.tau:.2f} (p {'< 0.001' if found.p < 0.001 else f'= {found.p:.3f}'})."
        for found in answer.rankings
    ]
    return [*said, *([answer.remark] if answer.remark else []), *experiment.notes]


def claims_of(answer: Answer) -> list[str]:
    """Return a sentence for each claim: what the paper says, whether it holds here, and whether chance may say so."""
    words = {True: "holds here", False: "does not hold here", None: "cannot be said here"}
    said = []
    waiting = dict.fromkeys((claim.text, claim.missing) for claim in answer.claims if claim.missing)
    for claim in answer.claims:
        if claim.missing:
            continue
        close = ", closer than two standard errors" if claim.close else ""
        ours = f" ({claim.ours[0]:.1f} against {claim.ours[1]:.1f}{close})" if claim.ours else ""
        printed = f"; in print {claim.printed[0]:.1f} against {claim.printed[1]:.1f}" if claim.printed else ""
        said.append(f"{claim.text} {claim.higher} > {claim.lower}: {words[claim.holds]}{ours}{printed}.")
    first = "cannot be said here before {name} is run, too: {command}; then run this again."
    return said + [f"{text} It {first.format(name=name, command=_command(answer, name))}" for text, name in waiting]


def _command(answer: Answer, name: str) -> str:
    """Return the command that runs another experiment in the same way, as its default folder has it."""
    words = ["fusionbench reproduce", name, *(["--suite mini"] if answer.which == "mini" else [])]
    words += [f"--profile {answer.profile}"] if answer.profile else []
    words += [f"--seeds {','.join(map(str, answer.seeds))}"] if answer.seeds != (0,) else []
    return " ".join(words)


def _name(line: Line) -> str:
    return " ".join([line.label, *(f"{key}={value}" for key, value in line.varied.items())])


def _cell(line: Line, column: str, own: str) -> str:
    """Return ours, the printed value in brackets, and a mark where they differ."""
    value = line.values.get(own)
    ours = f"{value.value:.1f}" if value else "–"
    if value and value.seeds > 1 and value.stderr is not None:
        ours += f" ± {value.stderr:.1f}"
    target = line.printed.get(column)
    mark = " ≠" if line.verdicts.get(column) == "differs" else ""
    return f"{ours} ({_as_printed(target)}){mark}" if target is not None else ours


def _as_printed(value: float) -> str:
    """Return a printed value with its one or two digits."""
    return f"{value:.2f}".removesuffix("0")


def _beside(answer: Answer) -> Mapping[tuple[str, str], float]:
    """Return the printed entries of an answer that is a matrix, by (row, column); on a stand-in there are none."""
    compared = answer.experiment.kind == "cosine" and answer.which == "paper"
    return cosines_of(str(answer.experiment.suite["name"])) if compared else {}


def _entry(square: Square, printed: Mapping[tuple[str, str], float], row: int, column: int) -> str:
    """Return an entry of a matrix, with the printed one in brackets and a mark where they differ."""
    target = printed.get((square.rows[row], square.columns[column]))
    ours = square.cell(row, column)
    if target is None:
        return ours
    return f"{ours} ({target:.2f}){' ≠' if abs(float(square.values[row, column]) - target) > COSINE else ''}"


def grid(answer: Answer) -> tuple[list[str], list[list[str]]]:
    """Return the columns of an answer's table, and its rows as printed: name, cells and, of lines, the note."""
    if answer.matrix is not None and not answer.lines:
        square, printed = answer.matrix, _beside(answer)
        found = [
            [name, *(_entry(square, printed, r, c) for c in range(len(square.columns)))]
            for r, name in enumerate(square.rows)
        ]
        return list(square.columns), found
    columns = columns_of(answer)
    own = {column: own_name(answer.experiment, column) for column in columns}
    rows = [[_name(line), *(_cell(line, c, own[c]) for c in columns), line.note] for line in answer.lines]
    return [*columns, NOTE], rows


def as_markdown(answer: Answer) -> str:
    """Return the answer as Markdown: ours (printed), ≠ where a cell differs by more than its rule allows."""
    columns, rows = grid(answer)
    lines = [markdown_row(["row", *columns]), "|---" * (len(columns) + 1) + "|", *map(markdown_row, rows)]
    failed = [f"- {name}: {reason}" for name, reason in answer.failed.items()]
    parts = [
        f"# {answer.experiment.name}",
        *headline(answer),
        "\n".join(lines),
        *([said] if (said := legend(answer)) else []),
    ]
    parts += ["\n".join(f"- {text}" for text in claims_of(answer))] if answer.claims else []
    parts += ["\n".join(["Rows without numbers:", *failed])] if failed else []
    return "\n\n".join(parts) + "\n"


def as_csv(answer: Answer) -> str:
    """Return one line a cell: row, varied keys, column, ours, n, s.e., seeds, printed, difference, verdict, note."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if answer.matrix is not None and not answer.lines:
        printed = _beside(answer)
        if not printed:
            return answer.matrix.to_csv()
        writer.writerow(["row", "column", "ours", "printed", "difference"])
        for name, values in zip(answer.matrix.rows, answer.matrix.values.tolist(), strict=True):
            for column, value in zip(answer.matrix.columns, values, strict=True):
                target = printed.get((name, column))
                writer.writerow([name, column, value, target, None if target is None else value - target])
        return text.getvalue()
    writer.writerow(
        ["row", "varied", "column", "ours", "n", "stderr", "seeds", "printed", "difference", "verdict", "note"]
    )
    columns = columns_of(answer)
    for line in answer.lines:
        varied = ";".join(f"{key}={value}" for key, value in line.varied.items())
        for column in columns:
            value, target = line.values.get(own_name(answer.experiment, column)), line.printed.get(column)
            ours = (value.value, value.n, value.stderr, value.seeds) if value else (None, None, None, 0)
            gap = value.value - target if value and target is not None else None
            writer.writerow([line.label, varied, column, *ours, target, gap, line.verdicts.get(column, ""), line.note])
    return text.getvalue()


def as_latex(answer: Answer) -> str:
    """Return the answer as a booktabs table; it needs the package booktabs."""
    columns, rows = grid(answer)
    if columns[-1] == NOTE:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    lines = [r"\begin{tabular}{l" + "r" * len(columns) + "}", r"\toprule"]
    lines.append(" & ".join(map(latex, ["method", *columns])) + r" \\")
    lines.append(r"\midrule")
    lines += [" & ".join(map(latex, row)) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
