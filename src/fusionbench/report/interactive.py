"""The same figures with the same data to hover, zoom and switch off, as one page: Plotly, whose script is inside it."""

import json
from collections.abc import Sequence
from html import escape

from fusionbench.report.plots import Chart
from fusionbench.report.shell import asset, document
from fusionbench.report.traces import figure_data


def interactive_page(title: str, charts: Sequence[Chart]) -> str:
    """Return a page with every chart as an interactive figure; it needs no network (4.8 MB of it are Plotly's script).

    Args:
        title: of the page.
        charts: drawn figures; what is shown is read off them, so that both forms have the same data.
    """
    from plotly.offline import get_plotlyjs

    figures = [{"id": f"figure-{number}", **figure_data(chart.figure)} for number, chart in enumerate(charts, start=1)]
    # A name that holds markup must not end the element that holds the data.
    data = json.dumps(figures, ensure_ascii=False).replace("<", "\\u003c")
    places = "".join(
        f'<section><div id="figure-{number}"></div><p class="caption">{escape(chart.caption)}</p></section>'
        for number, chart in enumerate(charts, start=1)
    )
    body = [
        f"<header><h1>{escape(title)}</h1></header>",
        f"<main>{places}</main>",
        f'<script type="application/json" id="figures">{data}</script>',
    ]
    return document(title, body, scripts=[get_plotlyjs(), asset("interactive.js")], images=True)
