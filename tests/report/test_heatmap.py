import numpy as np
import pytest

from fusionbench.report.analysis import Square
from fusionbench.report.heatmap import heatmap
from fusionbench.report.plots import INK, save
from fusionbench.report.svg import inline_svg


def square(values, **options) -> Square:
    values = np.asarray(values, float)
    rows, columns = values.shape
    return Square("Similarity", [f"r{i}" for i in range(rows)], [f"c{i}" for i in range(columns)], values, **options)


def texts(chart) -> list[str]:
    return [text.get_text() for text in chart.figure.axes[0].texts]


def test_every_cell_shows_its_number_and_a_dash_where_there_is_none():
    chart = heatmap("cosine", square([[1.0, 0.256], [np.nan, -0.001]], low=-1.0, high=1.0))
    assert texts(chart) == ["1.00", "0.26", "–", "0.00"]
    assert chart.caption == "Similarity"


def test_shares_are_shown_as_percent():
    assert texts(heatmap("transfer", square([[0.5, 0.123]], percent=True))) == ["50.0", "12.3"]


@pytest.mark.parametrize(
    ("values", "scale", "expected"),
    [
        ([[0.0, 0.2]], {"low": -1.0, "high": 1.0}, (-1, 1)),
        ([[0.2, 0.4]], {"low": 0.0}, (0, 0.4)),
        ([[-0.1, 0.4]], {}, (-0.4, 0.4)),
        ([[0.0, 0.0]], {"low": 0.0}, (0, 1)),
    ],
)
def test_the_scale_is_the_matrix_own_and_even_about_zero(values, scale, expected):
    cells = heatmap("x", square(values, **scale)).figure.axes[0].collections[0]
    assert cells.get_clim() == pytest.approx(expected)
    # The first row stands on top.
    assert heatmap("x", square([[1.0], [2.0]])).figure.axes[0].get_ylim() == (1.5, -0.5)


def test_nothing_is_an_image_since_pages_load_none():
    for count in (2, 30):
        svg = inline_svg(heatmap("x", square(np.arange(float(count**2)).reshape(count, count))), "one")
        assert "<image" not in svg
        assert "data:" not in svg


def test_numbers_on_pale_cells_stay_dark_where_the_page_is_dark():
    chart = heatmap("x", square([[0.1, 0.9, np.nan]], low=0.0, high=1.0))
    assert [text.get_color() for text in chart.figure.axes[0].texts] == ["#141416", "white", INK]
    # The page's own colour takes the place of INK alone.
    assert "#141416" in inline_svg(chart, "one")


def test_large_matrices_have_no_numbers_and_equal_charts_are_equal_files(tmp_path):
    values = np.arange(900.0).reshape(30, 30)
    one, two = (save(heatmap("big", square(values)), tmp_path / name) for name in "ab")
    assert one.read_bytes() == two.read_bytes()
    assert texts(heatmap("big", square(values))) == []


def test_csv_keeps_every_digit_and_leaves_gaps_empty():
    assert square([[1 / 3, np.nan]]).to_csv() == ",c0,c1\nr0,0.3333333333333333,\n"
