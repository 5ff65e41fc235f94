"""Render the tables of docs/suites-mini-clip.md from the records. Run: python benchmarks/suite_page.py."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "suites-mini-clip.md"
ROWS = {
    "pretrained": "pretrained",
    "individual": "individual",
    "traditional_mtl": "traditional_mtl",
    "own expert's MLPs": "mlp_mixture",
    "its expert on the other seven": "experts_on_other_tasks",
}
VARIANTS = "suite-mini-clip-variants.json"


def records() -> dict[str, dict[str, Any]]:
    """Return the record of each build by "size, seed n", smallest first."""
    found = {}
    for size in ("small", "large"):
        for path in sorted((DOCS / "results").glob(f"suite-mini-clip-{size}-*.json")):
            found[f"`{size}`, seed {path.stem.rpartition('-')[2]}"] = json.loads(path.read_text())
    return found


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def share(value: float | None) -> str:
    return "" if value is None else re.sub(r"^(-?)0\.", r"\1.", f"{value:.3f}")


def properties() -> str:
    builds = {name: record["values"]["properties"] for name, record in records().items()}
    first = next(iter(builds.values()))
    rows = []
    for name in first:
        bounds = {by[name]["bound"] for by in builds.values()}
        values = [share(by[name]["value"]) + ("" if by[name]["holds"] else " ✗") for by in builds.values()]
        rows.append([name, " / ".join(sorted(bounds)), *values])
    by_tensor = [record["values"]["entropy_and_loss_by_tensor"] for record in records().values()]
    for key, reading in {"tasks": "a task", "sum": "all tasks"}.items():
        values = [share(measured[key]) for measured in by_tensor]
        rows.append([f"the same with a coefficient a tensor, {reading}", "none", *values])
    sources = ", ".join(f"{name}: `{record['commit']}`, {record['date']}" for name, record in records().items())
    machine = next(iter(records().values()))["machine"]
    where = f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gb']} GB"
    return table(["property", "bound", *builds], rows) + f"\n\n✗: does not hold. {sources}. Machine: {where}."


def tasks() -> str:
    rows = []
    for name, record in records().items():
        values = record["values"]
        for label, row in ROWS.items():
            cells = [share(values[row][task]) for task in (*values["chance"], "average")]
            rows.append([name, label, *cells])
    names = next(iter(records().values()))["values"]["chance"]
    return table(["build", "accuracy on the test split", *names, "average"], rows)


def variants() -> str:
    columns = {
        "pretrained": "pretrained",
        "individual": "individual",
        "experts on other tasks": "off_task",
        "MLP mixture / individual": "mlp_share",
        "entropy, a task": "entropy_task",
        "entropy, all": "entropy_all",
    }
    tried = json.loads((DOCS / "results" / VARIANTS).read_text())
    rows = [[row["name"], row["what"], *(share(row.get(key)) for key in columns.values())] for row in tried]
    return table(["variant", "what", *columns], rows)


def rendered(page: str) -> str:
    """Return the page with its tables made anew."""
    for name, make in {"properties": properties, "tasks": tasks, "variants": variants}.items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        content = make()
        page = re.sub(pattern, lambda found, content=content: f"{found[1]}{content}\n{found[2]}", page, flags=re.DOTALL)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
