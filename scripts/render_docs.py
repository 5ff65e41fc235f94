"""Fill the generated blocks of README.md and docs/ from the index and from record files.

A block stands between `<!-- begin: NAME -->` and `<!-- end -->`; `<!-- parameters -->` on a method's page is the short
form of its parameter table. With --check nothing is written, and the exit code says whether something is stale.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import adaptive_results
import build_times
import experiment_pages
import experiments_table
import family_parts
import family_results
import method_numbers
import pictures
import scale_records
import side_by_side
import throughput
from result_files import origin, read

import reference
from fusionbench.registry import methods

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- begin: (?P<name>[^>]+?) -->\n.*?<!-- end -->", re.DOTALL)


def parameters_table(name: str) -> str:
    entry = methods[name]
    if not entry.parameters:
        return "**Parameters.** None."
    lines = ["| parameter | default | values | meaning |", "|---|---|---|---|"]
    for p in entry.parameters:
        values = " \\| ".join(p.choices) or (f"{p.type} in {p.range}" if p.type in ("number", "integer") else p.type)
        each = "; one for all, or one an expert" if p.per_expert else ""
        default = "required" if p.required else f"`{json.dumps(p.default, ensure_ascii=False)}`"
        lines.append(f"| `{p.name}` | {default} | {values}{each} | {reference.typeset(reference.escaped(p.doc))} |")
    return "\n".join(lines)


def results_table(name: str) -> str:
    record = read(name)
    rows = record["values"]["rows"]
    tasks = list(rows[0]["tasks"])
    lines = ["| method | " + " | ".join(tasks) + " | average |", "|---" * (len(tasks) + 2) + "|"]
    for row in rows:
        cells = [f"{100 * row['tasks'][task]:.1f}" for task in tasks]
        lines.append(f"| {row['label']} | " + " | ".join(cells) + f" | {100 * row['average']:.1f} |")
    return "\n".join([*lines, "", f"Accuracy in %. {origin(record)}"])


def merge_table(name: str = "merge") -> str:
    record = read(name)
    known = ("fusionbench", "mergekit", "fusion-bench", "sd-mecha")
    tools = [t for t in known if any(t in found for found in record["values"]["methods"].values())]
    head = " | ".join(f"{tool}: s, MB" for tool in tools)
    lines = [f"| method | {head} | faster than the faster peer |", "|---" * (len(tools) + 2) + "|"]
    for method, measured in record["values"]["methods"].items():
        cells = [f"{measured[t]['wall']:.2f}, {measured[t]['anonymous']:.0f}" if t in measured else "–" for t in tools]
        peers = [measured[tool]["wall"] for tool in tools[1:] if tool in measured]
        ratio = f"{min(peers) / measured['fusionbench']['wall']:.1f} ×" if peers else "–"
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {ratio} |")
    return "\n".join([*lines, "", f"Seconds of the whole process and peak anonymous memory, medians. {origin(record)}"])


BLOCKS: dict[str, Callable[[], str]] = {
    "methods": lambda: reference.methods_table("docs/methods/"),
    "methods index": lambda: reference.methods_table(""),
    "methods needs": reference.needs_table,
    "families": reference.families_table,
    "family parts": family_parts.parts_table,
    "family results": lambda: family_results.families_results("small"),
    "family results large": lambda: family_results.families_results("large"),
    "throughput": throughput.throughput_table,
    "families by methods": adaptive_results.families_by_methods,
    "families readme": reference.families_table,
    "suites": lambda: reference.suites_table(""),
    "experiments": experiments_table.experiments_table,
    "mergekit methods": reference.mergekit_methods,
    "fusion-bench methods": reference.fusion_bench_methods,
    "fusion-bench keys": reference.fusion_bench_keys,
    "abbreviations": reference.abbreviations_table,
    "command line": reference.command_line,
    "public names": reference.public_names,
    "merge benchmark": merge_table,
    "merge long": lambda: merge_table("merge-long"),
    "merge ties": lambda: merge_table("merge-ties"),
    "merge random and spectral": lambda: merge_table("merge-random-spectral"),
    "merge scaling": scale_records.scaling_table,
    "beyond memory": scale_records.beyond_memory_table,
    "many tensors": scale_records.many_tensors_table,
    "dispatch": scale_records.dispatch_table,
    "mixing benchmark": side_by_side.mixing_table,
    "adaptation benchmark": side_by_side.adaptation_table,
    "adaptation by concrete": lambda: side_by_side.adaptation_table("adaptation-concrete"),
    "sources of numbers": method_numbers.note,
}


def answer_table(name: str) -> str:
    """Return an experiment's averages beside the printed ones."""
    record = read(f"answer-{name}")
    lines = ["| row | average here | printed |", "|---|---|---|"]
    lines += [f"| {row['label']} | {row['average']:.1f} | {row['printed']:.1f} |" for row in record["values"]["rows"]]
    return "\n".join([*lines, "", f"Accuracy in %. {origin(record)}"])


NAMED: dict[str, Callable[[str], str]] = {
    "parameters": parameters_table,
    "table": results_table,
    "seeds": adaptive_results.seeds_table,
    "answer": answer_table,
    "builds": build_times.build_times,
    "numbers": method_numbers.numbers,
}


def rendered(path: Path, text: str) -> str:
    """Return a page with its blocks filled."""
    text = text.replace("<!-- parameters -->", f"<!-- begin: parameters {path.stem} -->\n<!-- end -->")

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        kind, _, of = name.partition(" ")
        content = BLOCKS[name]() if name in BLOCKS else NAMED[kind](of)
        return f"<!-- begin: {name} -->\n{content}\n<!-- end -->"

    return BLOCK.sub(fill, text)


def menu(text: str) -> str:
    """Return the site's menu with the page of every method, suite and experiment."""
    docs = ROOT / "docs"
    pages = {
        "methods": sorted(f"methods/{path.name}" for path in (docs / "methods").glob("*.md") if path.stem != "index"),
        "suites": sorted(path.name for path in docs.glob("suites-*.md")),
        "experiments": sorted(page for page in experiment_pages.pages() if not page.endswith("/index.md")),
    }
    for name, listed in pages.items():
        lines = "".join(f"      - {page}\n" for page in listed)
        text = re.sub(rf"(# begin: {name}\n).*?(      # end)", rf"\g<1>{lines}\g<2>", text, flags=re.DOTALL)
    return text


def made_whole() -> dict[Path, str]:
    """Return the files that are made from the registry alone: pages of experiments, and pictures."""
    docs = ROOT / "docs"
    texts = {docs / name: text for name, text in experiment_pages.pages().items()}
    return texts | {docs / "images" / name: draw() for name, draw in pictures.PICTURES.items()}


def stale() -> dict[Path, str | None]:
    """Return the files that are not as they should be, with what they should hold; None for those that should go."""
    whole = made_whole()
    found: dict[Path, str | None] = {
        path: None for path in (ROOT / "docs" / "experiments").glob("*.md") if path not in whole
    }
    pages = {path for path in (ROOT / "docs").rglob("*.md") if path not in found}
    for path in [ROOT / "mkdocs.yml", ROOT / "README.md", *sorted({*whole, *pages})]:
        before = path.read_text() if path.is_file() else ""
        after = whole[path] if path in whole else menu(before) if path.suffix == ".yml" else rendered(path, before)
        if after != before:
            found[path] = after
    return found


def main() -> None:
    check, found = "--check" in sys.argv, stale()
    for path, text in found.items() if not check else ():
        path.unlink() if text is None else path.write_text(text)
    if found:
        print(("stale: " if check else "rendered: ") + ", ".join(str(path.relative_to(ROOT)) for path in found))
    if found and check:
        sys.exit(1)


if __name__ == "__main__":
    main()
