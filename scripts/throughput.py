"""The table of throughput against bare PyTorch loops, from the record of benchmarks/throughput.py."""

import json
from pathlib import Path
from typing import Any

RECORD = Path(__file__).resolve().parents[1] / "docs" / "results" / "throughput.json"
CLOCKS = {"wall": "Wall time", "cpu": "CPU time of the process, on a machine on which others worked"}


def table(record: dict[str, Any]) -> str:
    """Return one line a suite: examples a second of the bare loop and ours, and the ratio."""
    values = record["values"]
    lines = ["| suite, task | evaluation: bare, ours | ratio | training: bare, ours | ratio |", "|---" * 5 + "|"]
    for suite, row in values["suites"].items():
        cells = [
            f"{row[what]['bare']:,.0f}, {row[what]['ours']:,.0f} | {row[what]['ratio']:.2f}"
            for what in ("evaluation", "training")
        ]
        lines.append(f"| `{suite}`, {row['task']} | " + " | ".join(cells) + " |")
    made = f"`{record['command']}`, {record['date']}, commit {record['commit']}, {record['machine']['cores']} cores."
    note = f"Examples a second, {values['threads']} threads, size `{values['size']}`, training in batches of "
    return "\n".join([*lines, "", f"{note}{values['batch']}. {CLOCKS[values['clock']]}. {made}"])


def throughput_table() -> str:
    return table(json.loads(RECORD.read_text()))
