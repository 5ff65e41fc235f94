"""A chart as SVG inside a page: its colours and font are the page's, so it follows light and dark."""

import io
import re
from html import escape

from fusionbench.report.plots import COLOURS, GRID, INK, STYLE, Chart


def inline_svg(chart: Chart, prefix: str) -> str:
    """Return a chart as an `<svg>` element whose ids begin with `prefix`, so that several share one page."""
    from matplotlib import style

    drawn = io.StringIO()
    undated = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with style.context(STYLE):
        chart.figure.savefig(drawn, format="svg", transparent=True, metadata=undated)
    svg = drawn.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--line)")
    for number, colour in enumerate(COLOURS, start=1):
        svg = svg.replace(colour, f"var(--series-{number})")
    svg = re.sub(r'\b(id=|href=)"(#?)', rf'\1"\2{prefix}-', svg).replace("url(#", f"url(#{prefix}-")
    # The page sets the size by the box's ratio; the size in points would make the figure overflow a phone.
    svg = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", svg)
    svg = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(chart.caption)}"', 1).strip()
