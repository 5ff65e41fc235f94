"""The page of interactive figures: whole in itself, its data safe, and its figures drawn in a browser."""

import json
import re
from pathlib import Path

import pytest

from fusionbench.records import Run, SuiteRef
from fusionbench.report import report
from fusionbench.report.figures import charts_of
from fusionbench.report.interactive import interactive_page
from fusionbench.report.tables import table_of


def data_of(page: str) -> list[dict]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, flags=re.DOTALL)
    assert found
    return json.loads(found[1])


def test_every_figure_has_its_place_its_caption_and_its_data(mini_clip: list[Run]) -> None:
    charts = charts_of(table_of(mini_clip))
    page = interactive_page("Figures", charts)
    found = data_of(page)
    assert [figure["id"] for figure in found] == [f"figure-{number}" for number in range(1, len(charts) + 1)]
    for figure, chart in zip(found, charts, strict=True):
        assert f'<div id="{figure["id"]}"></div><p class="caption">{chart.caption}</p>' in page
        assert figure["data"]


def test_the_library_is_inside_and_nothing_may_be_loaded(mini_clip: list[Run]) -> None:
    page = interactive_page("Figures", charts_of(table_of(mini_clip)))
    assert "default-src 'none'" in page
    assert "<script src" not in page
    assert page.count("'sha256-") == 2
    assert "plotly.js v" in page


def test_names_of_others_do_not_end_the_data(make_accuracies) -> None:
    evil = "</script><script>alert(1)</script>"
    runs = [
        make_accuracies(name, name, {evil: 0.5, "b": 0.5, "c": 0.5}, suite=SuiteRef(name=evil))
        for name in ("ties", "dare")
    ]
    page = interactive_page(evil, charts_of(table_of(runs)))
    assert evil not in page
    assert any("&lt;/script>" in json.dumps(figure, ensure_ascii=False) for figure in data_of(page))


def test_it_is_written_only_where_it_is_asked_for(mini_clip: list[Run], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert report([runs], ["html"], tmp_path / "a") == [tmp_path / "a" / "report.html"]
    assert "plotly" not in (tmp_path / "a" / "report.html").read_text().lower()
    assert report([runs], ["interactive"], tmp_path / "a") == [tmp_path / "a" / "interactive.html"]


@pytest.mark.browser
@pytest.mark.slow
def test_the_figures_are_drawn_in_a_browser_without_an_error(mini_clip: list[Run], tmp_path: Path, browser) -> None:
    (tmp_path / "page.html").write_text(interactive_page("Figures", charts_of(table_of(mini_clip))))
    opened = browser(tmp_path / "page.html")
    assert opened.errors == []
    # Plotly draws each line, bar and polygon as an element of its own.
    assert opened.page.count('class="js-plotly-plot"') == 5
    assert opened.page.count('class="trace bars"') == 5
    assert 'class="polarlayer"' in opened.page


def test_markup_in_the_data_does_not_end_its_element(mini_clip: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    raw = {"data": [{"name": "</script><b>"}], "layout": {}}
    monkeypatch.setattr("fusionbench.report.interactive.figure_data", lambda figure: raw)
    page = interactive_page("Figures", charts_of(table_of(mini_clip))[:1])
    assert data_of(page) == [{"id": "figure-1", **raw}]
