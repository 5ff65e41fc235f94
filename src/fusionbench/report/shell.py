"""What every page has in common: one style, light and dark, and a policy under which nothing can be loaded."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

ASSETS = Path(__file__).parent


def asset(name: str) -> str:
    """Return the text of a style or script of the pages."""
    return (ASSETS / name).read_text(encoding="utf-8")


def document(title: str, body: Sequence[str], *, scripts: Sequence[str] = (), images: bool = False) -> str:
    """Return a whole page that needs no server and no network.

    No remote address and no other script can be loaded, whatever a recipe or a note in the page contains.

    Args:
        title: as plain text.
        body: HTML of header and main part.
        scripts: run after the body, in order.
        images: let the page make images of its own figures.
    """
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = "; ".join(
        [
            "default-src 'none'",
            "style-src 'unsafe-inline'",
            *(["img-src data: blob:"] if images else []),
            *([f"script-src {digests}"] if scripts else []),
        ]
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{asset('page.css')}</style>",
            "</head>",
            "<body>",
            *body,
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>",
            "",
        ]
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
