"""Where a method is explained: `fusionbench show`, and its page where the documentation is at hand (in a clone)."""

import re
from itertools import chain
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "methods"
SHARED = {"pretrained": "references", "individual": "references", "traditional_mtl": "references"}
SHOWN = ("Formula", "Needs", "Fails")
"""What of a page is printed in the terminal besides its first paragraph, by the bold words that begin a paragraph."""


def page_of(name: str) -> Path | None:
    """Return the page of a method; None where there is none, as in a package that was installed without its clone."""
    page = FOLDER / f"{SHARED.get(name, name)}.md"
    return page if page.is_file() else None


def page_of_suite(name: str) -> Path | None:
    """Return the page that tells of a suite: by its title, by the suite whose name begins its own, or the papers'."""
    folder = FOLDER.parent
    stem = f"suites-{name.replace('/', '-')}"
    offline = sorted(folder.glob("suites-mini-*.md"), reverse=True)
    titled = (page for page in offline if f"`{name}`" in page.read_text(encoding="utf-8").partition("\n")[0])
    begun = (page for page in offline if stem.startswith(page.stem))
    page = next(chain(titled, begun), None) if name.startswith("mini/") else folder / "suites-papers.md"
    return page if page is not None and page.is_file() else None


def essence(page: Path) -> list[str]:
    """Return the paragraphs of a page that say what the method is, what it needs and how it fails, as plain text."""
    first, *rest = re.split(r"\n\s*\n", page.read_text(encoding="utf-8").partition("\n")[2].strip())
    chosen = [first, *(part for part in rest if part.startswith(tuple(f"**{word}" for word in SHOWN)))]
    return [_plain(part) for part in chosen]


def where_to_read(name: str) -> str:
    """Return the sentence that leads from an error to what explains it."""
    page = page_of(name)
    return f"See: fusionbench show {name}" + (f" ({page})" if page else "")


def _plain(paragraph: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))
    text = re.sub(r"<sub>(\w+)</sub>", r"_\1", text)
    text = re.sub(r"<sub>(.*?)</sub>", r"_{\1}", text)
    text = re.sub(r"<sup>(.*?)</sup>", r"^{\1}", text)
    return text.replace("**", "").replace("`", "")
