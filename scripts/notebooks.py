"""Carry out the notebooks and write each as a page of the site, with what its cells printed and drew.

Run: python scripts/notebooks.py [name …]. The cells are plain Python without magics, so no Jupyter is needed; the files
in notebooks/ hold no outputs. What the pages show comes from the suites' usual size, `small`.
"""

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
PAGES = ROOT / "docs" / "notebooks"
USUAL = 'size = "small"'
"""What the code cell that names the suite's size says; the tests put a smaller one in its place."""


@dataclass(frozen=True)
class Cell:
    """A cell as it stands, with what it printed and drew when it was carried out."""

    kind: str
    source: str
    printed: str = ""
    figures: tuple[bytes, ...] = ()


def cells(path: Path) -> list[Cell]:
    """Return a notebook's cells as they stand."""
    document = json.loads(path.read_text())
    return [Cell(cell["cell_type"], "".join(cell["source"])) for cell in document["cells"]]


def carried_out(path: Path, size: str = "small") -> Iterator[Cell]:
    """Yield the cells of a notebook as they are carried out one after the other in the current folder."""
    import matplotlib

    matplotlib.use("Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells(path):
        if cell.kind != "code":
            yield cell
            continue
        printed = io.StringIO()
        code = cell.source.replace(USUAL, f'size = "{size}"')
        with redirect_stdout(printed):
            exec(compile(code, path.name, "exec"), names)
        yield Cell(cell.kind, cell.source, printed.getvalue(), tuple(_drawn()))


def _drawn() -> Iterator[bytes]:
    """Yield the open figures as PNG and close them, as a notebook shows them below the cell."""
    import matplotlib.pyplot as plt

    for number in plt.get_fignums():
        image = io.BytesIO()
        plt.figure(number).savefig(image, format="png", dpi=110, metadata={"Software": None})
        plt.close(number)
        yield image.getvalue()


def page(path: Path, carried: list[Cell]) -> tuple[str, dict[str, bytes]]:
    """Return a notebook's page and its images by name."""
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for cell in carried:
        if cell.kind != "code":
            parts.append(cell.source.strip())
            continue
        parts.append(f"```python\n{cell.source.strip()}\n```")
        if cell.printed.strip():
            parts.append(f"```text\n{cell.printed.rstrip()}\n```")
        for figure in cell.figures:
            name = f"{path.stem}-{len(images) + 1}.png"
            images[name] = figure
            parts.append(f"![What the cell above drew]({name})")
    origin = (
        f"*This is `notebooks/{path.name}` of the repository, carried out. It needs no network and no GPU.\n"
        "Open it in Jupyter, or read on.*"
    )
    return "\n\n".join([parts[0], origin, *parts[1:]]) + "\n", images


def main() -> None:
    wanted = set(sys.argv[1:])
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    PAGES.mkdir(exist_ok=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if wanted and path.stem not in wanted:
            continue
        with TemporaryDirectory() as folder, chdir(folder):
            text, images = page(path, list(carried_out(path)))
        (PAGES / f"{path.stem}.md").write_text(text)
        for name, image in images.items():
            (PAGES / name).write_bytes(image)
        print(f"carried out {path.stem}: {len(images)} figures")


if __name__ == "__main__":
    main()
