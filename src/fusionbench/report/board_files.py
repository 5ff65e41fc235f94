"""A leaderboard as files, in the forms that are asked for."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fusionbench.errors import ConfigError
from fusionbench.records import write_whole
from fusionbench.registry import suggestion
from fusionbench.report.board_page import as_html
from fusionbench.report.leaderboard import Board, as_csv, as_latex, as_markdown

FORMS = {"md": "md", "csv": "csv", "latex": "tex", "html": "html"}
"""Forms of a leaderboard, with the endings of their files."""
USUAL = "md,csv,html"


def check_forms(forms: Sequence[str]) -> None:
    """Refuse forms that a leaderboard does not have.

    Raises:
        ConfigError: with the nearest.
    """
    unknown = [form for form in forms if form not in FORMS]
    if unknown:
        raise ConfigError(
            f"--format {','.join(forms)}: a leaderboard has no form {unknown[0]!r}. "
            f"{suggestion(unknown[0], list(FORMS))}"
        )


def write_boards(boards: Sequence[Board], forms: Sequence[str], out: Path) -> list[Path]:
    """Write `leaderboard.md` and so on into a folder, and return the files.

    Args:
        boards: of `leaderboards`.
        forms: some of md, csv, latex and html, each written once.
        out: the folder.

    Raises:
        ConfigError: where a form is none of these.
    """
    check_forms(forms)
    texts: dict[str, Callable[[Sequence[Board]], str]] = {
        "md": as_markdown, "csv": as_csv, "latex": as_latex, "html": partial(as_html, folder=out),
    }  # fmt: skip
    return [write_whole(out / f"leaderboard.{FORMS[form]}", texts[form](boards)) for form in dict.fromkeys(forms)]
