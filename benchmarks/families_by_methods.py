"""Run every method that looks at data on every offline suite, and record each value or the reason why there is none.

    python benchmarks/families_by_methods.py runs/families --record docs/results/families-by-methods.json

The suites are built where they are not in the cache. Adaptations take `--steps` steps, so that the values say that a
method runs on a family, not how good it is there; `--full` takes each method's own schedule.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record import write_record

from fusionbench.config import Recipe
from fusionbench.records import Report
from fusionbench.sweep import run_all

SUITES: dict[str, tuple[str, ...]] = {
    **{name: (f"suite=mini/{name}",) for name in ("clip", "image", "encoder", "gpt2", "t5", "causal_lm", "scene")},
    "segmentation": ("suite=mini/scene", "suite.experts=[segmentation]"),
}
"""The offline suites, and the part of the scenes whose head gives a distribution."""
STEPS, FEWER = "{steps}", "{fewer}"
METHODS: dict[str, tuple[str, ...]] = {
    "pretrained": ("method=pretrained",),
    "individual": ("method=individual",),
    "simple_average": ("method=simple_average",),
    "fisher": ("method=fisher", f"method.examples={FEWER}"),
    "regmean": ("method=regmean", f"method.examples={FEWER}"),
    "regmean_plusplus": ("method=regmean_plusplus", f"method.examples={FEWER}"),
    "adamerging, task": ("method=adamerging", "method.granularity=task", f"method.steps={STEPS}"),
    "adamerging, layer": ("method=adamerging", f"method.steps={STEPS}"),
    "adamerging++": ("method=adamerging", "method.plus_plus=true", f"method.steps={STEPS}"),
    "concrete_task_arithmetic": ("method=concrete_task_arithmetic", f"method.steps={STEPS}"),
    "concrete_adamerging, task": (
        "method=concrete_adamerging", "method.granularity=task", f"method.steps={STEPS}",
        f"method.mask_steps={STEPS}",
    ),
    "concrete_adamerging, layer": (
        "method=concrete_adamerging", f"method.steps={STEPS}", f"method.mask_steps={STEPS}",
    ),
    "greedy_soup": ("method=greedy_soup",),
    "surgery": ("method=surgery", f"method.steps={STEPS}"),
    "fw_merging, hard": ("method=fw_merging", "method.iterations=3", f"method.examples={FEWER}"),
    "fw_merging, soft": (
        "method=fw_merging", "method.variant=soft", "method.iterations=2", f"method.soft_steps={STEPS}",
        f"method.examples={FEWER}",
    ),
    "scale_search": ("method=scale_search", "method.scales=[0.2,0.3,0.4]"),
}  # fmt: skip


def main() -> None:
    options = _options()
    tables = {name: table(name, options) for name in options.suites.split(",")}
    if options.record:
        about = {key: getattr(options, key) for key in ("size", "seed", "steps", "examples", "full", "only")}
        write_record(options.record, {**about, "suites": tables})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the runs; what is finished there is only read")
    parser.add_argument("--suites", default=",".join(SUITES), help="columns, separated by commas")
    parser.add_argument("--only", default="", help="rows that are run, separated by semicolons; else all")
    parser.add_argument("--size", default="tiny", choices=("tiny", "small", "large"))
    parser.add_argument("--seed", type=int, default=0, help="of the suites")
    parser.add_argument("--steps", type=int, default=10, help="of adaptations")
    parser.add_argument("--examples", type=int, default=16, help="of statistics and of gradients")
    parser.add_argument("--full", action="store_true", help="each method's own steps and examples")
    parser.add_argument("--record", type=Path)
    return parser.parse_args()


def table(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return a suite's rows: the mean of merged / individual and each task's primary value, or the reason."""
    wanted = [row for row in METHODS if not options.only or row in options.only.split(";")]
    suite = [*SUITES[name], f"suite.size={options.size}", f"suite.seed={options.seed}", "output.model=false"]
    recipes = [Recipe.load(None, [*suite, *settings(row, options)]) for row in wanted]
    rows = {}
    for row, outcome in zip(wanted, run_all(recipes, options.folder / name), strict=True):
        rows[row] = {"reason": str(outcome.error)} if outcome.result is None else values(outcome.result.report)
        print(f"{name:10} {row:28} {shown(rows[row])}", flush=True)
    return rows


def settings(row: str, options: argparse.Namespace) -> Iterator[str]:
    """Yield a row's method and parameters; without those that shorten it where its own schedule is asked for."""
    for each in METHODS[row]:
        short = each.replace(STEPS, str(options.steps)).replace(FEWER, str(options.examples))
        if not (options.full and short != each):
            yield short


def values(report: Report) -> dict[str, Any]:
    """Return what the table shows of a report."""
    found = report.model_dump(by_alias=True)
    tasks = {
        task: {key: scores[key]["value"] for key in list(scores) if key != "seen"}
        for task, scores in found["tasks"].items()
    }
    primary = {task: next(iter(scores.items())) for task, scores in tasks.items()}
    return {
        "normalized": found["variants"][0]["normalized"],
        "tasks": {task: {"metric": metric, "value": value} for task, (metric, value) in primary.items()},
        "notes": found["notes"],
    }


def shown(row: dict[str, Any]) -> str:
    if "reason" in row:
        return row["reason"]
    return "–" if row["normalized"] is None else f"{row['normalized']:.3f}"


if __name__ == "__main__":
    sys.exit(main())
