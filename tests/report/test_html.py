"""The page: complete without a network or a script, and safe to open."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fusionbench.records import MetricInfo, Run, SuiteRef
from fusionbench.report.figures import charts_of
from fusionbench.report.html import page
from fusionbench.report.plots import COLOURS, GRID, INK
from fusionbench.report.shell import ASSETS
from fusionbench.report.tables import tables_of

MakeRun = Callable[..., Run]
VOID = {"meta", "input", "br", "link", "img"}


class Outline(HTMLParser):
    """Collects ids, links, and cells by row; fails where a closing tag does not fit."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "xlink:href", "src")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    assert parser.open == []
    return parser


def page_of(runs: list[Run]) -> str:
    tables = tables_of(runs)
    return page(tables, [charts_of(table) for table in tables])


def test_the_table_stands_in_the_page_itself(make_accuracies: MakeRun) -> None:
    runs = [
        make_accuracies("a", "pretrained", {"x": 0.25, "y": 0.5}),
        make_accuracies("b", "ties", {"x": 0.5, "y": 1.0}, stderr=None),
    ]
    assert outline(page_of(runs)).rows == [
        ["method", "x", "y", "average", "parameters", "time"],
        ["pretrained", "25.0 ± 1.0", "50.0 ± 1.0", "37.5", "147.6 K", "12.5 s"],
        ["ties", "50.0", "100.0", "75.0", "147.6 K", "12.5 s"],
    ]


def test_every_link_leads_to_an_id_of_the_page_and_no_id_occurs_twice(mini_clip: list[Run], make_run: MakeRun) -> None:
    scene = make_run(
        "scene",
        "ties",
        {"depth": {"abs_error": 0.5}},
        metrics={"abs_error": MetricInfo(unit="m", better="lower")},
        suite=SuiteRef(name="mini/scene"),
    )
    found = outline(page_of([*mini_clip, scene]))
    assert found.links
    assert {link[0] for link in found.links} == {"#"}
    assert {link[1:] for link in found.links} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))


def test_nothing_is_loaded_from_elsewhere(mini_clip: list[Run]) -> None:
    text = page_of(mini_clip)
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in text
    assert "@import" not in text


def test_words_of_others_are_text_and_never_markup(make_accuracies: MakeRun) -> None:
    evil = "<script>alert(1)</script>"
    run = make_accuracies("a", "ties", {evil: 0.5}, notes=(evil,), recipe={"base": evil}, suite=SuiteRef(name=evil))
    text = page_of([run])
    assert evil not in text
    assert text.count("<script>") == 1
    assert outline(text).rows[0][1] == evil


def test_the_page_is_the_same_each_time(mini_clip: list[Run]) -> None:
    assert page_of(mini_clip) == page_of(mini_clip)


def test_five_hundred_runs_fit_into_six_megabytes(make_accuracies: MakeRun) -> None:
    values = {f"task{index}": 0.5 for index in range(8)}
    runs = [make_accuracies(f"r{index}", "ties", values, params={"scale": index / 100}) for index in range(20)]
    one_run = (len(page_of(runs)) - len(page_of(runs[:10]))) / 10
    assert len(page_of(runs)) + 500 * one_run < 6e6


def test_the_page_has_the_colours_of_the_figures() -> None:
    light = (ASSETS / "page.css").read_text().split("@media")[0]
    assert re.findall(r"--series-\d: (#\w+)", light) == list(COLOURS)
    assert {INK[1:], GRID[1:]} <= set(re.findall(r": (\w{6})\n", (ASSETS / "print.mplstyle").read_text()))


def test_figures_take_the_colours_of_the_page(mini_clip: list[Run]) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", page_of(mini_clip), flags=re.DOTALL))
    assert "currentColor" in figures
    assert not {INK, GRID, *COLOURS} & set(re.findall(r"#[0-9a-f]{6}", figures))


BROWSER = """<!doctype html><iframe src="{page}" width="1200" height="900"></iframe><pre id="answer"></pre>
<script>
const answer = {{errors: []}};
addEventListener("load", () => {{
  const view = document.querySelector("iframe").contentWindow, page = view.document;
  view.addEventListener("error", (event) => answer.errors.push(event.message));
  const labels = () => [...page.querySelectorAll("tbody.methods tr:not([hidden]) th")].map((cell) => cell.textContent);
  const press = (text) => [...page.querySelectorAll("thead button")].find((b) => b.textContent === text).click();
  answer.asWritten = labels();
  press("average"); answer.best = labels();
  press("average"); answer.worst = labels();
  press("average"); answer.back = labels();
  const filter = page.querySelector("[data-filter]");
  filter.value = "SCALE=0.3 task"; filter.dispatchEvent(new Event("input")); answer.filtered = labels();
  answer.count = page.querySelector("[data-count]").textContent;
  view.location.hash = page.querySelector("tbody.methods a").hash;
  setTimeout(() => {{
    answer.open = page.querySelector("details[open] summary").textContent;
    document.getElementById("answer").textContent = JSON.stringify(answer);
  }}, 50);
}});
</script>"""


@pytest.mark.browser
@pytest.mark.slow
def test_sorting_filtering_and_links_work_in_a_browser(mini_clip: list[Run], tmp_path: Path, browser) -> None:
    (tmp_path / "report.html").write_text(page_of(mini_clip))
    (tmp_path / "browser.html").write_text(BROWSER.format(page=(tmp_path / "report.html").as_uri()))
    opened = browser(tmp_path / "browser.html")
    assert opened.errors == []
    found = re.search(r'<pre id="answer">(.+?)</pre>', opened.page)
    assert found
    answer = json.loads(found[1].replace("&gt;", ">"))
    arithmetic = {scale: f"task_arithmetic (scale={scale})" for scale in (0.1, 0.2, 0.3, 0.5, 1.0)}
    best = [
        *("adamerging",),
        *(arithmetic[s] for s in (0.3, 0.2, 0.5)),
        "simple_average",
        arithmetic[0.1],
        arithmetic[1.0],
    ]
    assert answer["errors"] == []
    assert answer["asWritten"] == answer["back"] == ["simple_average", "adamerging", *arithmetic.values()]
    assert answer["best"] == best
    assert answer["worst"] == best[::-1]
    assert answer["filtered"] == [arithmetic[0.3]]
    assert answer["count"] == "1 of 9 rows"
    assert answer["open"] == "simple_average average accuracy 61.6 %"


@pytest.mark.browser
@pytest.mark.slow
def test_a_console_error_is_seen(tmp_path: Path, browser) -> None:
    (tmp_path / "broken.html").write_text("<!doctype html><script>undefinedName.x;</script>")
    opened = browser(tmp_path / "broken.html")
    assert len(opened.errors) == 1
    assert "undefinedName is not defined" in opened.errors[0]
