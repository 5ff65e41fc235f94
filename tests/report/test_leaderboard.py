from dataclasses import replace

import pytest

from fusionbench.errors import ConfigError
from fusionbench.records import SuiteRef
from fusionbench.report.board_files import write_boards
from fusionbench.report.leaderboard import as_csv, as_latex, as_markdown, leaderboards


@pytest.fixture
def board(make_accuracies):
    """Task arithmetic with two scales and two seeds each, TIES with one, and the yardsticks."""
    own = {"x": 0.8, "y": 0.5}
    runs = [
        make_accuracies("ties", "ties", {"x": 0.6, "y": 0.4}, individual=own),
        make_accuracies("p", "pretrained", {"x": 0.2, "y": 0.2}, individual=own),
        make_accuracies("i", "individual", own, individual=own),
    ]
    for seed, (low, high) in enumerate(((0.5, 0.7), (0.6, 0.9))):
        for scale, value in ((0.1, low), (0.3, high)):
            scores = {"x": value, "y": value}
            options = {"params": {"scale": scale}, "suite": SuiteRef(name="mini/clip", size="small", seed=seed)}
            runs.append(make_accuracies(f"{scale}-{seed}", "task_arithmetic", scores, individual=own, **options))
    (found,) = leaderboards(runs)
    return found


def test_methods_are_ranked_by_the_mean_over_seeds_and_yardsticks_are_not(board):
    assert [(s.rank, s.label) for s in board.standings] == [
        (None, "pretrained"),
        (None, "individual"),
        (1, "task_arithmetic (scale=0.3)"),
        (2, "task_arithmetic (scale=0.1)"),
        (3, "ties"),
    ]


def test_seeds_give_a_mean_with_its_standard_error(board):
    best = board.standings[2]
    assert best.average == pytest.approx(0.8)
    # values .7 and .9: s.d. √.02, divided by √2
    assert best.stderr == pytest.approx(0.1)
    assert best.seeds == 2
    assert board.standings[-1].stderr is None


def test_the_share_of_the_experts_scores_stands_beside(board):
    # .6/.8 and .4/.5
    assert board.standings[-1].normalized == pytest.approx((0.75 + 0.8) / 2)


def test_other_tasks_are_another_board(make_accuracies):
    runs = [make_accuracies("a", "ties", {"x": 0.5}), make_accuracies("b", "ties", {"x": 0.5, "y": 0.4})]
    assert [found.title for found in leaderboards(runs)] == ["mini/clip (small): x", "mini/clip (small): x, y"]


def test_a_bar_in_a_label_breaks_no_row(board):
    odd = replace(board, standings=(replace(board.standings[-1], label="ties (filter=a|b)"),))
    assert r" | ties (filter=a\|b) | " in as_markdown([odd])


def test_both_forms_name_every_row(board):
    text, table = as_markdown([board]), as_csv([board])
    assert "| 1 | task_arithmetic (scale=0.3) | 80.0 | 10.0 |" in text
    assert table.splitlines()[0].startswith("suite,rank,method,average")
    assert len(table.splitlines()) == 6


def test_other_data_is_another_board_so_that_validation_scores_are_not_ranked_with_those_of_the_test_split(
    make_accuracies,
):
    data = {
        "a": {"split": "test", "corruption": None, "severity": 2, "limit": None},
        "b": {"split": "validation", "corruption": None, "severity": 2, "limit": None},
        "c": {"split": "test", "corruption": "motion_blur", "severity": 3, "limit": 50},
    }
    runs = [make_accuracies(name, "ties", {"x": 0.5}, recipe={"tasks": tasks}) for name, tasks in data.items()]
    assert [found.title for found in leaderboards(runs)] == [
        "mini/clip (small)",
        "mini/clip (small), validation split",
        "mini/clip (small), motion_blur, severity 3, first 50 examples",
    ]


def test_a_yardstick_with_two_settings_is_no_method(make_accuracies):
    runs = [
        make_accuracies(name, method, {"x": 0.5}, recipe={"batch_norm": name})
        for name, method in (("average", "pretrained"), ("keep_base", "pretrained"), ("z", "ties"))
    ]
    (found,) = leaderboards(runs)
    assert [(s.rank, s.method) for s in found.standings] == [(None, "pretrained"), (None, "pretrained"), (1, "ties")]


def test_only_the_forms_that_are_asked_for_are_written(board, tmp_path):
    written = write_boards([board], ["latex", "csv", "csv"], tmp_path)
    assert [path.name for path in written] == ["leaderboard.tex", "leaderboard.csv"]
    assert sorted(path.name for path in tmp_path.glob("leaderboard.*")) == ["leaderboard.csv", "leaderboard.tex"]
    with pytest.raises(
        ConfigError, match=r"--format md,png: a leaderboard has no form 'png'. Known: csv, html, latex, md"
    ):
        write_boards([board], ["md", "png"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_latex_has_yardsticks_above_a_rule_and_special_letters_escaped(board):
    lines = as_latex([board]).splitlines()
    assert lines[:2] == [r"\begin{table}", r"  \centering"]
    assert lines[5] == r"    rank & method & average & s.e. & normalized & seeds & parameters & bytes \\"
    ranked = [index for index, line in enumerate(lines) if line.startswith("    1 &")]
    assert lines[ranked[0]].startswith(r"    1 & task\_arithmetic (scale=0.3) & 80.0 & 10.0 &")
    # Two rules: below the heads, and below the two yardsticks.
    assert [index for index, line in enumerate(lines) if line == r"    \midrule"] == [6, ranked[0] - 1]
    assert lines[-2:] == [r"  \end{tabular}", r"\end{table}"]


def test_many_digits_of_a_search_are_not_all_shown(make_accuracies):
    runs = [
        make_accuracies(name, "ties", {"x": 0.5}, params={"scale": scale})
        for name, scale in (("a", 0.5488135039273248), ("b", 0.7151893663724195))
    ]
    (found,) = leaderboards(runs)
    assert {s.label for s in found.standings} == {"ties (scale=0.5488)", "ties (scale=0.7152)"}
