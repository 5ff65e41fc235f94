"""Record what every family's mini suite gives over several suite seeds, for docs/families.md.

Run: python benchmarks/families.py RUNS [NAME]. RUNS holds a folder `<suite>-<seed>` for each build, such as `t5-0`, and
in it a run's folder for each row: `fusionbench run suite=mini/t5 suite.seed=0 method=ties --out RUNS/t5-0/ties`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from record import write_record

ROWS = ("pretrained", "individual", "traditional_mtl", "simple_average", "task_arithmetic", "ties")


def main() -> None:
    folder = Path(sys.argv[1])
    name = sys.argv[2] if len(sys.argv) > 2 else "families-small"
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("*-[0-9]*/*/report.json"))]
    write_record(Path("docs/results") / f"{name}.json", {"suites": gathered(reports)})


def gathered(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, by suite, its seeds and each row's values in their order; a build that lacks a row is left out.

    Raises:
        ValueError: where a suite has reports of two sizes, or two of one build and method.
    """
    found: dict[str, dict[int, dict[str, dict[str, Any]]]] = {}
    sizes: dict[str, set[str]] = {}
    for report in reports:
        suite, method = report["suite"], report["method"]["name"]
        sizes.setdefault(suite["name"], set()).add(suite["size"])
        rows = found.setdefault(suite["name"], {}).setdefault(suite["seed"], {})
        if method in rows or len(sizes[suite["name"]]) > 1:
            raise ValueError(f"{suite['name']}: two reports of seed {suite['seed']} and {method}, or of several sizes.")
        rows[method] = report
    return {name: _suite(builds) for name, builds in sorted(found.items()) if any(map(_whole, builds.values()))}


def _whole(rows: dict[str, Any]) -> bool:
    return set(ROWS) <= set(rows)


def _suite(builds: dict[int, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    seeds = sorted(seed for seed, rows in builds.items() if _whole(rows))
    first = builds[seeds[0]]["individual"]["primary_average"]
    return {
        "seeds": seeds,
        "builds": [builds[seed]["individual"]["suite"]["build"] for seed in seeds],
        "metric": first["metric"] if first else None,
        "rows": {method: _row([builds[seed][method] for seed in seeds]) for method in ROWS},
    }


def _row(reports: list[dict[str, Any]]) -> dict[str, Any]:
    averages = [report["primary_average"]["value"] for report in reports if report["primary_average"] is not None]
    return {
        "average": averages or None,
        "normalized": [report["variants"][0]["normalized"] for report in reports],
    }


if __name__ == "__main__":
    main()
