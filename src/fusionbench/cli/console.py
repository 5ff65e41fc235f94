"""What a person sees: the two streams, colours where there is a terminal, and the one progress bar."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusionbench.merge import Progress


def say(content: Any) -> None:
    """Print a text or a rich table to standard output."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    Console(width=width, soft_wrap=isinstance(content, str)).print(content, markup=False, highlight=False)


def say_json(content: Any) -> None:
    """Print data as JSON to standard output, for scripts."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def counted(number: int, word: str) -> str:
    """Return a number and what it counts: "1 expert", "2 experts", "2 passes"."""
    return f"{number:,} {word if number == 1 else word + ('es' if word.endswith('s') else 's')}"


def note(text: str) -> None:
    """Print a remark to standard error, so that it never mixes with results."""
    sys.stderr.write(f"note: {text}\n")


def complain(text: str) -> None:
    """Print an error to standard error."""
    mark = "\033[1;31merror:\033[0m" if sys.stderr.isatty() else "error:"
    sys.stderr.write(f"{mark} {text}\n")


def local_folder(text: str | Path) -> Path:
    """Return an option's folder.

    Raises:
        BadParameter: where it is an address, which would become a folder of that name.
    """
    import typer

    if "://" in str(text):
        raise typer.BadParameter(f"{text} is an address, and this verb writes to folders only. Name a folder.")
    return Path(text)


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield a function that moves the one progress bar; there is none where standard error is no terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def move(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield move
