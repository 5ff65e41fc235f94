"""Fill the generated blocks of README.md and docs/ from the index and from record files.

A block stands between `<!-- begin: NAME -->` and `<!-- end -->`; `<!-- parameters -->` on a method's page is the short
form of its parameter table. With --check nothing is written, and the exit code says whether something is stale.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusionbench.registry import methods

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- begin: (?P<name>[^>]+?) -->\n.*?<!-- end -->", re.DOTALL)
RESULTS = ROOT / "docs" / "results"


def methods_table() -> str:
    lines = ["| method | category | paper | what it returns |", "|---|---|---|---|"]
    for name in methods:
        entry = methods[name]
        if entry.location.startswith("fusionbench."):
            page = name if (ROOT / "docs" / "methods" / f"{name}.md").is_file() else "references"
            paper = entry.paper
            if match := re.fullmatch(r"arXiv:(\S+)", paper):
                paper = f"[{match[1]}](https://arxiv.org/abs/{match[1]})"
            lines.append(f"| [`{name}`](docs/methods/{page}.md) | {entry.category} | {paper} | {entry.summary} |")
    return "\n".join(lines)


def parameters_table(name: str) -> str:
    entry = methods[name]
    if not entry.parameters:
        return "**Parameters.** None."
    lines = ["| parameter | default | values | meaning |", "|---|---|---|---|"]
    for p in entry.parameters:
        values = " \\| ".join(p.choices) or (f"{p.type} in {p.range}" if p.type in ("number", "integer") else p.type)
        each = "; one for all, or one an expert" if p.per_expert else ""
        default = "required" if p.required else f"`{json.dumps(p.default, ensure_ascii=False)}`"
        lines.append(f"| `{p.name}` | {default} | {values}{each} | {p.doc.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def origin(record: dict[str, Any]) -> str:
    """Return where the figures of a record come from."""
    machine = record["machine"]
    return f"`{record['command']}`, {record['date']}, commit {record['commit']}, {machine['cores']} cores."


def results_table(name: str) -> str:
    record = json.loads((RESULTS / f"{name}.json").read_text())
    rows = record["values"]["rows"]
    tasks = list(rows[0]["tasks"])
    lines = ["| method | " + " | ".join(tasks) + " | average |", "|---" * (len(tasks) + 2) + "|"]
    for row in rows:
        cells = [f"{100 * row['tasks'][task]:.1f}" for task in tasks]
        lines.append(f"| {row['label']} | " + " | ".join(cells) + f" | {100 * row['average']:.1f} |")
    return "\n".join([*lines, "", f"Accuracy in %. {origin(record)}"])


def merge_table() -> str:
    record = json.loads((RESULTS / "merge.json").read_text())
    tools = ("fusionbench", "mergekit", "fusion-bench")
    head = " | ".join(f"{tool}: s, MB" for tool in tools)
    lines = [f"| method | {head} | faster than the faster peer |", "|---" * 5 + "|"]
    for method, measured in record["values"]["methods"].items():
        cells = [f"{measured[t]['wall']:.2f}, {measured[t]['anonymous']:.0f}" if t in measured else "–" for t in tools]
        peers = [measured[tool]["wall"] for tool in tools[1:] if tool in measured]
        ratio = f"{min(peers) / measured['fusionbench']['wall']:.1f} ×" if peers else "–"
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {ratio} |")
    return "\n".join([*lines, "", f"Seconds of the whole process and peak anonymous memory, medians. {origin(record)}"])


BLOCKS: dict[str, Callable[[], str]] = {
    "methods": methods_table,
    "merge benchmark": merge_table,
}


NAMED: dict[str, Callable[[str], str]] = {"parameters": parameters_table, "table": results_table}


def rendered(path: Path, text: str) -> str:
    """Return a page with its blocks filled."""
    text = text.replace("<!-- parameters -->", f"<!-- begin: parameters {path.stem} -->\n<!-- end -->")

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        kind, _, of = name.partition(" ")
        content = BLOCKS[name]() if name in BLOCKS else NAMED[kind](of)
        return f"<!-- begin: {name} -->\n{content}\n<!-- end -->"

    return BLOCK.sub(fill, text)


def main() -> None:
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        before = path.read_text()
        after = rendered(path, before)
        if after != before:
            stale.append(path.relative_to(ROOT))
            if "--check" not in sys.argv:
                path.write_text(after)
    if stale:
        print(("stale: " if "--check" in sys.argv else "rendered: ") + ", ".join(map(str, stale)))
    if stale and "--check" in sys.argv:
        sys.exit(1)


if __name__ == "__main__":
    main()
