"""Record what finished runs found, for the docs: python benchmarks/table.py runs/quickstart quickstart.

Runs of several suite seeds lie a folder a seed, runs/seeds/0/ties and so on: the record then has a list a row, by seed.
"""

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from record import write_record

SHOWN = (
    "granularity",
    "plus_plus",
    "scale",
    "steps",
    "mask_steps",
    "k",
    "by",
    "variant",
    "soft_steps",
    "gate_k",
    "rank_k",
    "zone",
)
FIRST = ("pretrained", "individual", "traditional_mtl")


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("*/report.json"))]
    values = (
        table(reports) if reports else over_seeds([json.loads(p.read_text()) for p in folder.glob("*/*/report.json")])
    )
    write_record(Path("docs/results") / f"{name}.json", values)


def table(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row a report."""
    return {"suite": reports[0]["suite"], "rows": sorted((_row(report) for report in reports), key=_order)}


def over_seeds(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row a method and its parameters, with what each suite seed gave; a row says which seeds it has.

    Raises:
        ValueError: where reports are of several suites, or two are of one row and seed.
    """
    kinds = {(report["suite"]["name"], report["suite"]["size"]) for report in reports}
    if len(kinds) != 1:
        raise ValueError(f"A table is of one suite; here are {sorted(kinds)}.")
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for report in reports:
        row, seed = _row(report), report["suite"]["seed"]
        if seed in found.setdefault(row["label"], {}):
            raise ValueError(f"Two reports of seed {seed} and {row['label']}.")
        found[row["label"]][seed] = row
    rows = [_joined(dict(sorted(by_seed.items()))) for by_seed in found.values()]
    ((name, size),) = kinds
    return {
        "suite": {"name": name, "size": size},
        "rows": sorted(rows, key=lambda row: _order({**row, "average": mean(row["averages"])})),
    }


def _joined(by_seed: dict[int, dict[str, Any]]) -> dict[str, Any]:
    first = next(iter(by_seed.values()))
    tasks = {task: [row["tasks"][task] for row in by_seed.values()] for task in first["tasks"]}
    return {
        "method": first["method"], "label": first["label"], "seeds": list(by_seed), "tasks": tasks,
        "averages": [row["average"] for row in by_seed.values()],
    }  # fmt: skip


def _row(report: dict[str, Any]) -> dict[str, Any]:
    method = report["method"]
    extra = [f"{key}={method['params'][key]}" for key in SHOWN if method["params"].get(key) is not None]
    if isinstance(inner := method["params"].get("inner"), dict):
        extra.append(f"inner={inner['name']}")
    return {
        "method": method["name"],
        "label": f"{method['name']} ({', '.join(extra)})" if extra else method["name"],
        "tasks": {task: scores["accuracy"]["value"] for task, scores in report["tasks"].items()},
        "average": report["average"]["accuracy"],
    }


def _order(row: dict[str, Any]) -> tuple[int, float]:
    """Reference rows first, then by average."""
    return (FIRST.index(row["method"]), 0) if row["method"] in FIRST else (len(FIRST), row["average"])


if __name__ == "__main__":
    main()
