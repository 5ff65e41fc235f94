"""The table of throughput against bare PyTorch loops, from the record of benchmarks/throughput.py."""

from typing import Any

from result_files import origin, read

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
    note = f"Examples a second, {values['threads']} threads, size `{values['size']}`, training in batches of "
    return "\n".join([*lines, "", f"{note}{values['batch']}. {CLOCKS[values['clock']]}. {origin(record)}"])


def throughput_table() -> str:
    return table(read("throughput"))
