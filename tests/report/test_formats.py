"""Tables as text, compared letter by letter."""

from collections.abc import Callable

import pytest
from rich.console import Console

from fusionbench.records import Run
from fusionbench.report.formats import as_csv, as_latex, as_markdown, as_rich
from fusionbench.report.tables import Table, table_of

CAPTION = (
    "Values: accuracy in %. Average: mean over the seen tasks. Normalized: mean over the seen tasks of the score"
    " divided by the individual model's (the inverse where lower is better), in %. Bold: best value apart from the"
    " reference rows."
)


@pytest.fixture
def small(make_accuracies: Callable[..., Run]) -> Table:
    options = {"individual": {"mnist": 1.0, "dig|its": 0.5}}
    return table_of(
        [
            make_accuracies("a", "pretrained", {"mnist": 0.5, "dig|its": 0.25}, **options),
            make_accuracies(
                "b", "task_arithmetic", {"mnist": 0.75, "dig|its": 0.375}, params={"scale": 0.3}, **options
            ),
            make_accuracies(
                "c", "task_arithmetic", {"mnist": 0.625, "dig|its": 0.75}, params={"scale": 0.5}, **options
            ),
        ]
    )


def test_markdown(small: Table) -> None:
    assert as_markdown(small) == "\n".join(
        [
            "## mini/clip (small)",
            "",
            r"| method | mnist | dig\|its | average | normalized |",
            "| :-- | --: | --: | --: | --: |",
            "| pretrained | 50.0 | 25.0 | 37.5 | 50.0 |",
            "| task_arithmetic (scale=0.3) | **75.0** | 37.5 | 56.2 | 75.0 |",
            "| task_arithmetic (scale=0.5) | 62.5 | **75.0** | **68.8** | **106.2** |",
            "",
            CAPTION,
            "",
        ]
    )


def test_markdown_with_standard_errors(small: Table) -> None:
    assert "| task_arithmetic (scale=0.3) | **75.0 ± 1.0** | 37.5 ± 1.0 | 56.2 | 75.0 |\n" in as_markdown(
        small, stderr=True
    )


def test_csv_has_values_as_recorded(small: Table) -> None:
    assert as_csv(small, stderr=True).splitlines() == [
        "suite,method,label,seed,mnist,dig|its,average,normalized,mnist.stderr,dig|its.stderr",
        "mini/clip,pretrained,pretrained,0,0.5,0.25,0.375,0.5,0.01,0.01",
        "mini/clip,task_arithmetic,task_arithmetic (scale=0.3),0,0.75,0.375,0.5625,0.75,0.01,0.01",
        "mini/clip,task_arithmetic,task_arithmetic (scale=0.5),0,0.625,0.75,0.6875,1.0625,0.01,0.01",
    ]


def test_latex(small: Table) -> None:
    lines = as_latex(small).splitlines()
    assert lines[4:] == [
        r"    \toprule",
        r"    method & mnist & dig|its & average & normalized \\",
        r"    \midrule",
        r"    pretrained & 50.0 & 25.0 & 37.5 & 50.0 \\",
        r"    \midrule",
        r"    task\_arithmetic (scale=0.3) & \textbf{75.0} & 37.5 & 56.2 & 75.0 \\",
        r"    task\_arithmetic (scale=0.5) & 62.5 & \textbf{75.0} & \textbf{68.8} & \textbf{106.2} \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    assert lines[2].startswith(r"  \caption{mini/clip (small): Values: accuracy in \%.")
    assert lines[3] == r"  \begin{tabular}{lrrrr}"


def test_the_terminal_table_has_the_same_numbers_and_square_brackets_are_text(
    make_accuracies: Callable[..., Run],
) -> None:
    runs = [
        make_accuracies("a", "ties", {"x": 0.5}, params={"layers": "[bold]"}),
        make_accuracies("b", "ties", {"x": 0.6}, params={"layers": None}),
    ]
    console = Console(width=100, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(as_rich(table_of(runs)))
    shown = captured.get()
    assert "ties (layers=[bold])" in shown
    assert "60.0" in shown
    assert "Values: accuracy in %." in shown
