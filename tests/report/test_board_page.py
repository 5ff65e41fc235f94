"""The leaderboard's page: its rows, the links to the runs, and what a browser makes of it."""

import re
from pathlib import Path

import pytest

from fusionbench.records import SuiteRef
from fusionbench.report.board_page import as_html
from fusionbench.report.leaderboard import leaderboards


@pytest.fixture
def boards(make_accuracies):
    runs = [make_accuracies("p", "pretrained", {"x": 0.25}), make_accuracies("t", "ties", {"x": 0.5})]
    for seed, value in enumerate((0.5, 0.75)):
        suite = SuiteRef(name="mini/clip", size="small", seed=seed)
        runs.append(make_accuracies(f"d & {seed}", "dare", {"x": value}, suite=suite))
    return leaderboards([*runs, make_accuracies("other", "ties", {"x": 0.5}, suite=SuiteRef(name="mini/gpt2"))])


def test_every_row_links_to_the_runs_behind_it(boards, tmp_path: Path) -> None:
    page = as_html(boards, tmp_path / "runs" / "report")
    links = re.findall(r'<a href="([^#"]+)">\d</a>', page)
    # From runs/report one step up; the names of folders are written as addresses.
    assert links == [
        "../p/report.json", "../d%20%26%200/report.json", "../d%20%26%201/report.json", "../t/report.json",
        "../other/report.json",
    ]  # fmt: skip
    for link in links:
        assert (tmp_path / "runs" / "report" / link.replace("%20", " ").replace("%26", "&")).resolve().is_file()


def test_the_rows_are_those_of_the_board(boards, tmp_path: Path) -> None:
    page = as_html(boards, tmp_path)
    assert re.findall(r'<th scope="row">([^<]*)</th>', page) == ["pretrained", "dare", "ties", "ties"]
    dare = re.search(r"<tr><th scope=\"row\">dare</th>(.*?)</tr>", page)
    assert dare
    # Mean 0.625; s.d. of two values 0.25/√2, divided by √2.
    assert re.findall(r"<td[^>]*>([^<]*)", dare[1])[:5] == ["1", "62.5", "12.5", "–", "2"]
    assert page.count('<nav aria-label="Suites">') == 1


def test_words_of_others_are_text(make_accuracies, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    page = as_html(leaderboards([make_accuracies("a", "ties", {"x": 0.5}, suite=SuiteRef(name=evil))]), tmp_path)
    assert evil not in page
    assert page.count("<script>") == 1


@pytest.mark.browser
@pytest.mark.slow
def test_a_browser_opens_it_without_an_error_and_counts_its_rows(boards, tmp_path: Path, browser) -> None:
    (tmp_path / "leaderboard.html").write_text(as_html(boards, tmp_path))
    opened = browser(tmp_path / "leaderboard.html")
    assert opened.errors == []
    assert "3 of 3 rows" in opened.page
    assert opened.page.count("<button") == 2 * 8
