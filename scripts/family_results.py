"""The table suite × row over several suite seeds, from the record of benchmarks/families.py."""

import statistics
from typing import Any

from result_files import origin, read

SHORT = {"traditional_mtl": "MTL", "simple_average": "average", "task_arithmetic": "task arithmetic", "ties": "TIES"}


def spread(values: list[float], digits: int = 3) -> str:
    """Return the mean and, of several values, the standard error: their deviation (n − 1) over √n."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else mean


def table(suites: dict[str, Any], value: str) -> str:
    """Return one line a suite; suites without that value are left out."""
    names = list(next(iter(suites.values()))["rows"])
    lines = ["| suite | seeds | " + " | ".join(SHORT.get(name, name) for name in names) + " |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for suite, of in suites.items():
        if any(of["rows"][name][value] is None for name in names):
            continue
        cells = " | ".join(spread(of["rows"][name][value]) for name in names)
        lines.append(f"| `{suite}` | {', '.join(map(str, of['seeds']))} | {cells} |")
    return "\n".join(lines)


def results(record: dict[str, Any], size: str) -> str:
    """Return both tables of a size, with what they say and where they come from."""
    suites = record["values"]["suites"]
    made = origin(record)
    return "\n".join([
        "Mean over the tasks of the share of each expert's own score (`normalized`; of errors the inverse share):",
        "", table(suites, "normalized"), "",
        "Mean of the tasks' primary metrics where these are of one kind: accuracy, and for T5 also a rank correlation:",
        "", table(suites, "average"), "",
        f"Mean over the suite seeds ± standard error; one seed has none. Size `{size}`, default parameters. {made}",
    ])  # fmt: skip


def families_results(size: str) -> str:
    return results(read(f"families-{size}"), size)
