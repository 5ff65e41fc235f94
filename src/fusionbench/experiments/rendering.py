"""An answer as Markdown, CSV, LaTeX and HTML."""

import csv
import io
from collections.abc import Sequence
from html import escape

from fusionbench.experiments.answer import UNSEEN, Line, own_name
from fusionbench.experiments.published import AVERAGE
from fusionbench.experiments.reproduce import Answer

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color-scheme:light dark}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #8884}"
    "td:first-child,th:first-child{text-align:left}"
    ".wide{overflow-x:auto}small{opacity:.7}"
)


def columns_of(answer: Answer) -> list[str]:
    """Return the tables' names of the columns that we have values for, averages last."""
    found: dict[str, None] = {}
    for line in answer.lines:
        own = {own_name(answer.experiment, name): name for name in line.printed}
        for name in line.values:
            if "/" not in name or name in own:
                found.setdefault(own.get(name, name), None)
    return [*(name for name in found if name not in (AVERAGE, UNSEEN)), *(n for n in (AVERAGE, UNSEEN) if n in found)]


def headline(answer: Answer) -> list[str]:
    """Return the sentences that stand above the table."""
    experiment = answer.experiment
    place = (
        f"Run on the papers' suite {experiment.suite['name']}."
        if answer.which == "paper"
        else f"Run on the offline stand-in {experiment.stand_in['name']}: other numbers, only orders compare."
    )
    said = [f"{experiment.title} ({experiment.paper}).", place]
    if answer.profile:
        said.append(f"A shorter schedule was run: {answer.profile} = {experiment.shorter[answer.profile]}.")
    if answer.ranking:
        found = answer.ranking
        said.append(
            f"Order of {found.rows} rows by average against the printed one: "
            f"Kendall's τ = {found.tau:.2f} (p = {found.p:.3f})."
        )
    return [*said, *experiment.notes]


def claims_of(answer: Answer) -> list[str]:
    """Return a sentence for each claim: what the paper says, and whether it holds here."""
    words = {True: "holds here", False: "does not hold here", None: "cannot be said here"}
    return [
        f"{claim.text} {claim.higher} > {claim.lower}: {words[claim.holds]}"
        + (f" ({claim.ours[0]:.1f} against {claim.ours[1]:.1f})." if claim.ours else ".")
        for claim in answer.claims
    ]


def _name(line: Line) -> str:
    return " ".join([line.label, *(f"{key}={value}" for key, value in line.varied.items())])


def _cell(line: Line, column: str, own: str) -> str:
    """Return ours, the printed value in brackets, and a mark where they differ."""
    value = line.values.get(own)
    ours = f"{value.value:.1f}" if value else "–"
    target = line.printed.get(column)
    mark = " ≠" if line.verdicts.get(column) == "differs" else ""
    return f"{ours} ({target:g}){mark}" if target is not None else ours


def _rows(answer: Answer) -> tuple[list[str], list[list[str]]]:
    columns = columns_of(answer)
    own = {column: own_name(answer.experiment, column) for column in columns}
    return columns, [[_name(line), *(_cell(line, c, own[c]) for c in columns), line.note] for line in answer.lines]


def as_markdown(answer: Answer) -> str:
    """Return the answer as Markdown: ours (printed), ≠ where a cell differs by more than its rule allows."""
    parts = [f"# {answer.experiment.name}", *headline(answer)]
    if answer.matrix is not None:
        square = answer.matrix
        lines = ["| | " + " | ".join(square.columns) + " |", "|---" * (len(square.columns) + 1) + "|"]
        for row, name in enumerate(square.rows):
            lines.append(f"| {name} | " + " | ".join(square.cell(row, c) for c in range(len(square.columns))) + " |")
        return "\n\n".join([*parts, "\n".join(lines)]) + "\n"
    columns, rows = _rows(answer)
    lines = ["| row | " + " | ".join(columns) + " | note |", "|---" * (len(columns) + 2) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    legend = "Ours, the printed value in brackets; ≠ where they differ by more than the row's rule allows."
    failed = [f"- {name}: {reason}" for name, reason in answer.failed.items()]
    parts += ["\n".join(lines), legend]
    parts += ["\n".join(f"- {text}" for text in claims_of(answer))] if answer.claims else []
    parts += ["\n".join(["Rows without numbers:", *failed])] if failed else []
    return "\n\n".join(parts) + "\n"


def as_csv(answer: Answer) -> str:
    """Return one line a cell: row, varied keys, column, ours, n, standard error, printed, difference, verdict."""
    if answer.matrix is not None:
        return answer.matrix.to_csv()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "varied", "column", "ours", "n", "stderr", "printed", "difference", "verdict", "note"])
    columns = columns_of(answer)
    for line in answer.lines:
        varied = ";".join(f"{key}={value}" for key, value in line.varied.items())
        for column in columns:
            value, target = line.values.get(own_name(answer.experiment, column)), line.printed.get(column)
            ours = (value.value, value.n, value.stderr) if value else (None, None, None)
            gap = value.value - target if value and target is not None else None
            writer.writerow([line.label, varied, column, *ours, target, gap, line.verdicts.get(column, ""), line.note])
    return text.getvalue()


def as_latex(answer: Answer) -> str:
    """Return the answer as a booktabs table; it needs the package booktabs."""
    if answer.matrix is not None:
        square = answer.matrix
        columns: Sequence[str] = square.columns
        rows = [[n, *(square.cell(r, c) for c in range(len(columns)))] for r, n in enumerate(square.rows)]
    else:
        columns, found = _rows(answer)
        rows = [row[:-1] for row in found]
    special = str.maketrans(
        {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "≠": r"$\neq$", "λ": r"$\lambda$", "–": "--"}
    )
    lines = [r"\begin{tabular}{l" + "r" * len(columns) + "}", r"\toprule"]
    lines.append(" & ".join(["method", *columns]).translate(special) + r" \\")
    lines.append(r"\midrule")
    lines += [" & ".join(row).translate(special) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def as_html(answer: Answer) -> str:
    """Return the answer as one self-contained page."""
    if answer.matrix is not None:
        square = answer.matrix
        columns: Sequence[str] = square.columns
        rows = [[n, *(square.cell(r, c) for c in range(len(columns)))] for r, n in enumerate(square.rows)]
    else:
        columns, rows = _rows(answer)
        columns = [*columns, "note"]
    head = "".join(f"<th>{escape(column)}</th>" for column in ["", *columns])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    said = "".join(f"<p>{escape(text)}</p>" for text in headline(answer))
    claims = "".join(f"<li>{escape(text)}</li>" for text in claims_of(answer))
    failed = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in answer.failed.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(answer.experiment.name)}</title><style>{STYLE}</style><h1>{escape(answer.experiment.name)}</h1>"
        f'{said}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        "<p><small>Ours, the printed value in brackets; ≠ where they differ by more than the rule allows.</small></p>"
        + (f"<h2>Claims</h2><ul>{claims}</ul>" if claims else "")
        + (f"<h2>Rows without numbers</h2><ul>{failed}</ul>" if failed else "")
        + "</html>\n"
    )
