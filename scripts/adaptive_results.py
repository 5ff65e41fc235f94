"""Tables of methods that look at data, on every family and over suite seeds, from the records of benchmarks/."""

from typing import Any

from family_results import spread
from result_files import origin, read

LAYER, PLUS = "adamerging (granularity=layer, plus_plus=False", "adamerging (granularity=layer, plus_plus=True"
CONCRETE = "concrete_adamerging (granularity=layer"
EXPECTED = (
    ("regmean", "simple_average"),
    (LAYER, "task_arithmetic"),
    (LAYER, "ties"),
    (PLUS, LAYER),
    (CONCRETE, LAYER),
    ("concrete_task_arithmetic", "task_arithmetic"),
    ("wemoe", LAYER),
    ("efficient_wemoe", LAYER),
    ("smile (k=16", "wemoe"),
    ("smile (k=0", "smile (k=16"),
)
"""Orders that the papers lead one to expect, by how the rows' labels begin."""


def families_by_methods() -> str:
    """Return a row a method and a column a suite; a cell without a value points at the reason below the table."""
    record = read("families-by-methods")
    suites = record["values"]["suites"]
    reasons: dict[str, str] = {}

    def cell(row: dict[str, Any]) -> str:
        if "reason" in row:
            return f"[{reasons.setdefault(row['reason'], chr(ord('a') + len(reasons)))}]"
        return "–" if row["normalized"] is None else f"{100 * row['normalized']:.0f}"

    lines = ["| method | " + " | ".join(suites) + " |", "|---" * (len(suites) + 1) + "|"]
    lines += [
        f"| {method} | " + " | ".join(cell(rows[method]) for rows in suites.values()) + " |"
        for method in next(iter(suites.values()))
    ]
    about = record["values"]
    length = (
        "each method's own schedule"
        if about["full"]
        else f"{about['steps']} steps of adaptation, {about['examples']} examples for statistics"
    )
    said = "Mean over the tasks of merged / individual, turned round where lower is better, in %; suites of size "
    told = [f"[{mark}] {reason}" for reason, mark in reasons.items()]
    return "\n".join(
        [*lines, "", f"{said}{about['size']}, {length}. {origin(record)}", "", *(f"- {line}" for line in told)]
    )


def seeds_table(name: str) -> str:
    """Return a row a method, its mean over suite seeds with the standard error, and each seed's average."""
    record = read(name)
    rows = record["values"]["rows"]
    lines = ["| method | average | by seed |", "|---|---|---|"]
    for row in rows:
        each = ", ".join(f"{seed}: {value:.3f}" for seed, value in zip(row["seeds"], row["averages"], strict=True))
        lines.append(f"| {row['label']} | {spread(row['averages'])} | {each} |")
    suite = record["values"]["suite"]
    said = f"Mean accuracy over the tasks of `{suite['name']}` {suite['size']}, mean over suite seeds ± standard error."
    return "\n".join([*lines, "", f"{said} {origin(record)}", "", *_orders(rows)])


def _orders(rows: list[dict[str, Any]]) -> list[str]:
    """Return, for each order that is expected, the differences within seeds: their mean ± standard error, each one."""
    found = {row["label"]: dict(zip(row["seeds"], row["averages"], strict=True)) for row in rows}
    lines = ["| expected order | difference within a seed | holds in |", "|---|---|---|"]
    for better, worse in EXPECTED:
        above, below = (_labelled(found, label) for label in (better, worse))
        differences = [above[seed] - below[seed] for seed in above if seed in below]
        if differences:
            holds = sum(difference > 0 for difference in differences)
            order = " > ".join(f"{name})" if "(" in name else name for name in (better, worse))
            lines.append(f"| {order} | {spread(differences)} | {holds} of {len(differences)} seeds |")
    return lines


def _labelled(found: dict[str, dict[int, float]], start: str) -> dict[int, float]:
    """Return the values by seed of the row whose label begins so; nothing where there is none."""
    wanted = [label for label in found if label == start or label.startswith(start)]
    return found[min(wanted, key=len)] if wanted else {}
