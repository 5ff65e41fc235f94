"""Record what finished runs found, for the docs: python benchmarks/table.py runs/quickstart quickstart."""

import json
import sys
from pathlib import Path
from typing import Any

from record import write_record

SHOWN = ("granularity", "plus_plus", "scale", "steps", "mask_steps", "k", "by", "variant", "soft_steps")
FIRST = ("pretrained", "individual", "traditional_mtl")


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("*/report.json"))]
    rows = sorted((_row(report) for report in reports), key=_order)
    write_record(Path("docs/results") / f"{name}.json", {"suite": reports[0]["suite"], "rows": rows})


def _row(report: dict[str, Any]) -> dict[str, Any]:
    method = report["method"]
    extra = [f"{key}={value}" for key, value in method["params"].items() if key in SHOWN]
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
