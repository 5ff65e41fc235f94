"""Pictures of the documentation as SVG: the pipeline, and the taxonomy of the registered methods.

All text stands in filled boxes of its own, so that it is read on a light and on a dark page alike; a picture is 400
units wide, about the width of a phone, so that its letters keep their size there.
"""

import textwrap
from collections.abc import Iterable, Sequence
from html import escape

from fusionbench.registry import methods

WIDTH = 400
LINE = 17
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'SFMono-Regular', Menlo, 'DejaVu Sans Mono', monospace"
EDGE = "#7f8a99"
COLOURS = {"ensemble": "#1f4f82", "merge": "#1d5c45", "mix": "#6b3a78", "plain": "#3a4454"}
PALE = "#e9eef5"
ACROSS = 52
"""Letters of the fixed width that fit into a line."""
SAYS = {
    "ensemble": ("Ensemble: combine predictions", "all models are kept, and each one runs"),
    "merge": ("Merge: combine weights", "one model of the base's size comes out"),
    "mix": ("Mix: recombine parts", "a larger model, often with a router"),
}
LOOKS = {
    (): "weights only",
    ("validation",): "chosen on validation data",
    ("unlabelled",): "inputs without labels",
    ("labelled",): "inputs with labels",
    ("training_after",): "trained on afterwards",
}


def text(x: float, y: float, content: str, *, size: int = 14, bold: bool = False, mono: bool = False) -> str:
    style = f'font-family="{MONO if mono else SANS}" font-size="{size}"' + (' font-weight="600"' if bold else "")
    return f'<text x="{x:g}" y="{y:g}" {style} fill="#ffffff" xml:space="preserve">{escape(content)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{fill}"/>'


def dot(x: float, y: float, radius: float, fill: str = PALE) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}"/>'


def line(x: float, y: float, to_x: float, to_y: float, colour: str = PALE) -> str:
    return f'<path d="M{x:g} {y:g} L{to_x:g} {to_y:g}" stroke="{colour}" stroke-width="2" fill="none"/>'


def arrow(x: float, y: float, length: float) -> str:
    """Return an arrow downwards, in a grey that is seen on light and dark pages."""
    end = y + length
    head = f'<path d="M{x - 5:g} {end - 7:g} L{x:g} {end:g} L{x + 5:g} {end - 7:g}" stroke="{EDGE}" '
    return line(x, y, x, end, EDGE) + head + 'stroke-width="2" fill="none"/>'


def whole(height: float, title: str, parts: Iterable[str]) -> str:
    """Return the file; `title` is what a screen reader says."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        f'role="img" aria-label="{escape(title)}">'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>", ""])


def sign(category: str, x: float, y: float) -> list[str]:
    """Return a category's small drawing: three models, and what becomes of them."""
    rows = (-14, 0, 14)
    models = [dot(x, y + row, 5) for row in rows]
    if category == "mix":
        frame = f'<rect x="{x + 28:g}" y="{y - 20:g}" width="22" height="40" rx="5" fill="none" stroke="{PALE}" '
        ties = [line(x + 7, y + row, x + 34, y + row) for row in rows]
        return [*models, *ties, frame + 'stroke-width="2"/>', *(dot(x + 39, y + row, 4) for row in rows)]
    ties = [line(x + 7, y + row, x + 36, y) for row in rows]
    square = f'<rect x="{x + 36:g}" y="{y - 6:g}" width="12" height="12" fill="{PALE}"/>'
    return [*models, *ties, square if category == "ensemble" else dot(x + 42, y, 8)]


def looks_at(needs: Sequence[str]) -> str:
    """Return in words what a method looks at beside the weights."""
    said = tuple(need for need in needs if need in ("validation", "unlabelled", "labelled", "training_after"))
    return LOOKS[said]


def groups_of(category: str) -> dict[str, list[str]]:
    """Return our methods of a category by what they look at, in the order of `LOOKS`."""
    found: dict[str, list[str]] = {words: [] for words in LOOKS.values()}
    for name in methods:
        entry = methods[name]
        if entry.category == category and entry.location.startswith("fusionbench."):
            found[looks_at(entry.needs)].append(name)
    return {words: names for words, names in found.items() if names}


def taxonomy() -> str:
    """Return the taxonomy: a box a category, and in it the registered methods by what they look at."""
    parts: list[str] = []
    top = 0.0
    for category, (title, meaning) in SAYS.items():
        inner, y = [text(14, top + 26, title, size=16, bold=True), text(14, top + 46, meaning)], top + 54
        for words, names in groups_of(category).items():
            inner.append(text(14, y + 20, f"{words}:", size=13, bold=True))
            lines = textwrap.wrap(" ".join(names), ACROSS, break_long_words=False)
            inner += [text(14, y + 20 + LINE * (row + 1), each, size=12, mono=True) for row, each in enumerate(lines)]
            y += 20 + LINE * len(lines) + 4
        parts += [box(0, top, WIDTH, y - top + 10, COLOURS[category]), *inner, *sign(category, 334, top + 34)]
        top = y + 22
    return whole(top - 12, "Methods by category: ensembles, merges and mixes, and what each looks at", parts)


def pipeline() -> str:
    """Return the way from a recipe to a report."""
    steps = (
        ("Recipe", "a YAML file, or key=value on the command line", "plain"),
        ("Weights", "a base and its experts: files, folders, hub ids", "plain"),
        ("Method", "ensemble, merge or mix: TIES, RegMean, SMILE …", "merge"),
        ("Fused model", "written to disk; appears whole or not at all", "ensemble"),
        ("Family + tasks", "run it on test images, texts or scenes", "mix"),
        ("Report", "numbers, table, figures, a page", "plain"),
    )
    height, gap = 52, 24
    parts: list[str] = []
    for number, (title, meaning, colour) in enumerate(steps):
        y = number * (height + gap)
        parts += [box(20, y, 360, height, COLOURS[colour]), text(34, y + 22, title, size=15, bold=True)]
        parts.append(text(34, y + 42, meaning, size=13))
        if number:
            parts.append(arrow(WIDTH / 2, y - gap + 3, gap - 6))
    said = "From a recipe through weights, a method, the fused model, a family with tasks, to a report"
    return whole(len(steps) * (height + gap) - gap, said, parts)


PICTURES = {"taxonomy.svg": taxonomy, "pipeline.svg": pipeline}
