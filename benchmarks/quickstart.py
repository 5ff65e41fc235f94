"""Record what a finished quickstart found, for the README: python benchmarks/quickstart.py runs/quickstart."""

import json
import sys
from pathlib import Path

from record import write_record

ORDER = ("pretrained", "individual", "simple_average", "task_arithmetic", "ties")


def main() -> None:
    folder = Path(sys.argv[1])
    reports = {r["method"]["name"]: r for r in (json.loads(p.read_text()) for p in folder.glob("*/report.json"))}
    rows = []
    for name in ORDER:
        report = reports[name]
        tasks = {task: scores["accuracy"]["value"] for task, scores in report["tasks"].items()}
        rows.append({"method": name, "tasks": tasks, "average": report["average"]["accuracy"]})
    times = {p.parent.name: json.loads(p.read_text())["seconds"] for p in folder.glob("*/run.json")}
    values = {"suite": reports["ties"]["suite"], "rows": rows, "seconds": times}
    write_record(Path("docs/results/quickstart.json"), values)


if __name__ == "__main__":
    main()
