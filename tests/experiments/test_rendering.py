"""An answer on the papers' suite as Markdown, CSV and LaTeX, from lines that are typed in here."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from fusionbench.experiments.answer import Line, Ranking, Value
from fusionbench.experiments.claims import Judged
from fusionbench.experiments.model import load_experiment
from fusionbench.experiments.page import as_html
from fusionbench.experiments.rendering import as_csv, as_latex, as_markdown
from fusionbench.experiments.reproduce import Answer
from fusionbench.report.analysis import Square

EXPERIMENT = load_experiment("multi-task-clip-b32")
LINES = (
    Line(
        "simple_average", {}, {"mnist": Value(86.25, 10000, 0.34), "average": Value(66.5, None, 0.1)},
        {"mnist": 87.1, "average": 66.5}, {"mnist": "differs", "average": "agrees"}, "a_note & more",
    ),
    Line("ties", {}, {"mnist": Value(90.0, 10000, 0.5, 3)}, {"mnist": 91.0, "average": None}, {"mnist": "agrees"}),
)  # fmt: skip
ANSWER = Answer(
    EXPERIMENT, "paper", None, (0,), LINES, {"smile": "k is above the rank"},
    (Ranking(0.5, 0.25, 4), Ranking(-1.0, 1.0, 3, "fused rows")),
    (
        Judged("TIES is better.", "ties", "simple_average", (70.0, 66.5)),
        Judged("WEMoE is best.", "wemoe", "ties", None),
        Judged("RegMean is better.", "regmean", "ties", (70.5, 70.0), None, 0.4),
    ),
)  # fmt: skip


def test_a_chance_that_rounds_to_nothing_is_not_said_to_be_nothing():
    ranking = replace(ANSWER.rankings[0], p=0.00049)
    text = as_markdown(replace(ANSWER, rankings=(ranking, replace(ranking, p=0.001))))
    assert "Kendall's τ = 0.50 (p < 0.001)." in text
    assert "Kendall's τ = 0.50 (p = 0.001)." in text


def test_markdown_has_ours_with_the_printed_value_and_a_mark_where_they_differ():
    text = as_markdown(ANSWER)
    assert "| simple_average | 86.2 (87.1) ≠ | 66.5 (66.5) | a_note & more |" in text
    assert "| ties | 90.0 ± 0.5 (91.0) | – |  |" in text
    assert "Run on the papers' suite clip-vit-b32/ta8." in text
    assert "Order of 4 rows by average against the printed one: Kendall's τ = 0.50 (p = 0.250)." in text
    assert "Order of 3 fused rows by average against the printed one: Kendall's τ = -1.00 (p = 1.000)." in text
    assert "2 of 3 judged cells agree." in text
    assert "- TIES is better. ties > simple_average: holds here (70.0 against 66.5)." in text
    assert "regmean > ties: holds here (70.5 against 70.0, closer than two standard errors)." in text
    assert "- WEMoE is best. wemoe > ties: cannot be said here." in text
    assert "- smile: k is above the rank" in text


def test_csv_has_a_line_a_cell_with_difference_n_and_standard_error():
    rows = list(csv.DictReader(io.StringIO(as_csv(ANSWER))))
    first = rows[0]
    assert (first["row"], first["column"], first["ours"], first["printed"]) == (
        "simple_average",
        "mnist",
        "86.25",
        "87.1",
    )
    assert abs(float(first["difference"]) + 0.85) < 1e-9
    assert (first["n"], first["stderr"], first["seeds"], first["verdict"]) == ("10000", "0.34", "1", "differs")
    assert [(row["row"], row["column"], row["ours"]) for row in rows[2:]] == [
        ("ties", "mnist", "90.0"),
        ("ties", "average", ""),
    ]


def test_latex_is_a_booktabs_table_with_special_letters_escaped():
    text = as_latex(ANSWER)
    assert text.splitlines() == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"method & mnist & average \\",
        r"\midrule",
        r"simple\_average & 86.2 (87.1) $\neq$ & 66.5 (66.5) \\",
        r"ties & 90.0 $\pm$ 0.5 (91.0) & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_signs_that_a_label_may_hold_break_no_table():
    odd = replace(ANSWER, lines=(Line("α|β 10^-3 {$x}", {}, {"mnist": Value(90.0)}, {"mnist": 91.0}, {}),))
    assert r"| α\|β 10^-3 {$x} | 90.0 (91.0) |" in as_markdown(odd)
    assert r"α|β 10\textasciicircum{}-3 \{\$x\} & 90.0 (91.0)" in as_latex(odd)


def test_a_shorter_profile_and_what_it_leaves_out_stand_above_the_table():
    steps = load_experiment("steps-adamerging-clip-b32")
    text = as_markdown(Answer(steps, "mini", "quick", (0, 1), LINES))
    assert "Of step only 0, 100, 200, 300, 400, 500." in text
    assert "Means over the seeds 0, 1; ± is the standard error over seeds." in text
    table = as_markdown(Answer(EXPERIMENT, "mini", "quick", (0,), LINES))
    words = "adamerging with steps=100; wemoe with steps=100; fisher with examples=64; regmean with examples=64"
    assert f"A shorter schedule was run (quick): {words}." in table


def test_a_stand_in_has_no_legend_of_marks_that_it_cannot_have():
    text = as_markdown(Answer(EXPERIMENT, "mini", None, (0,), LINES))
    assert "no cell is judged" in text
    assert "row's rule" not in text
    bare = as_markdown(Answer(EXPERIMENT, "mini", None, (0,), (Line("ties", {}, {"mnist": Value(90.0)}, {}, {}),)))
    assert "brackets" not in bare


def test_cosines_have_the_printed_ones_in_brackets_and_their_differences_in_the_csv():
    names = ["sun397", "svhn", "mnist"]
    # Printed for ViT-B/32: svhn–sun397 0.01, mnist–sun397 0.01, mnist–svhn 0.15.
    values = np.array([[1.0, 0.02, 0.5], [0.02, 1.0, 0.25], [0.5, 0.25, 1.0]])
    square = Square("cosines", names, names, values)
    answer = Answer(load_experiment("cosine-clip-b32"), "paper", None, (0,), matrix=square)
    text = as_markdown(answer)
    assert "| sun397 | 1.00 (1.00) | 0.02 (0.01) | 0.50 (0.01) ≠ |" in text
    assert "≠ where they differ by more than 0.015" in text
    cells = {(row["row"], row["column"]): row for row in csv.DictReader(io.StringIO(as_csv(answer)))}
    assert len(cells) == 9
    found = cells["svhn", "mnist"]
    assert (found["ours"], found["printed"]) == ("0.25", "0.15")
    assert float(found["difference"]) == pytest.approx(0.1)
    assert "0.25 (0.15) ≠" in as_html(answer)
    # Models of a stand-in are others: theirs stand alone.
    alone = replace(answer, which="mini")
    assert "(" not in as_markdown(alone).partition("| row")[2]
    assert as_csv(alone).splitlines()[0] == ",sun397,svhn,mnist"
