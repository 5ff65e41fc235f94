"""Record an experiment's averages beside the printed ones: python benchmarks/answer.py runs/NAME/answer.csv NAME."""

import csv
import sys
from pathlib import Path

from record import write_record


def main() -> None:
    file, name = Path(sys.argv[1]), sys.argv[2]
    with file.open(newline="") as content:
        cells = [row for row in csv.DictReader(content) if row["column"] == "average"]
    rows = [
        {"label": row["row"], "average": float(row["ours"]), "printed": float(row["printed"])}
        for row in cells
        if row["printed"]
    ]
    write_record(Path("docs/results") / f"answer-{name}.json", {"rows": rows})


if __name__ == "__main__":
    main()
