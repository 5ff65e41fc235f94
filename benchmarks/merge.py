"""Merge eight experts of a 134M-parameter Llama with FusionBench and its peers, each a whole process.

Makes the checkpoints, runs the tools interleaved (page cache warm), prints medians and ratios, and writes the record
that the docs render. The peers live in environments of their own:

    python benchmarks/merge.py --mergekit ENV/bin/mergekit-yaml --fusion-bench ENV/bin/python \
        --sd-mecha ENV/bin/python --record docs/results/merge.json

fusion-bench runs iso_c and tsv_m in float32: torch has no SVD of bfloat16 on the CPU.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measure import Figures, measure
from record import write_record

from checkpoints import make

HERE = Path(__file__).parent
OURS: dict[str, list[str]] = {
    "linear": ["method=simple_average"],
    "task_arithmetic": ["method=task_arithmetic", "method.scale=0.3"],
    "ties": ["method=ties", "method.density=0.2", "method.scale=0.3", "method.combine=sum"],
    "ties_tensor": ["method=ties", "method.density=0.2", "method.scope=tensor"],
    "dare_ties": ["method=dare", "method.density=0.2", "method.combine=ties"],
    "slerp": ["method=slerp", "method.t=0.5"],
    "model_stock": ["method=model_stock"],
    "breadcrumbs": ["method=breadcrumbs", "method.density=0.9"],
    "della": ["method=della", "method.density=0.5"],
    "sce": ["method=sce", "method.select_topk=0.1"],
    "tsv_m": ["method=tsv_m"],
    "iso_c": ["method=iso_c"],
}
MERGEKIT: dict[str, dict[str, object]] = {
    "linear": {"merge_method": "linear", "each": {"weight": 1.0}},
    "task_arithmetic": {"merge_method": "task_arithmetic", "each": {"weight": 0.3}},
    "ties_tensor": {"merge_method": "ties", "each": {"weight": 1.0, "density": 0.2}},
    "dare_ties": {"merge_method": "dare_ties", "each": {"weight": 1.0, "density": 0.2}},
    "slerp": {"merge_method": "slerp", "parameters": {"t": 0.5}},
    "model_stock": {"merge_method": "model_stock"},
    "breadcrumbs": {"merge_method": "breadcrumbs", "each": {"weight": 0.3, "density": 0.9}},
    "della": {"merge_method": "della", "each": {"weight": 1.0, "density": 0.5}},
    "sce": {"merge_method": "sce", "parameters": {"select_topk": 0.1}},
}
FUSION_BENCH = ("linear", "task_arithmetic", "ties", "tsv_m", "iso_c")
SD_MECHA = ("linear", "slerp")
PAIRS = ("slerp",)
"""Methods of the base and one expert."""


def main() -> None:
    options = _options()
    base, experts = make(options.folder, options.experts)
    methods = options.methods.split(",") if options.methods else list(OURS)
    load = os.getloadavg()[0]
    if load > 1 and not options.force:
        sys.exit(f"The machine is busy (load {load:.1f}): figures would mean nothing. Wait, or add --force.")
    rows: dict[str, dict[str, Figures]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        for method in methods:
            chosen = experts[:1] if method in PAIRS else experts
            commands = _commands(method, base, chosen, Path(scratch), options)
            found: dict[str, list[Figures]] = {tool: [] for tool in commands}
            for _ in range(options.runs):
                for tool, make_command in commands.items():
                    found[tool].append(measure(make_command(), log=Path(scratch) / "log"))
            rows[method] = {tool: _median(figures) for tool, figures in found.items()}
            _print(method, rows[method])
        floor = _floor([base, *experts], Path(scratch))
    print(f"floor: cat of the inputs {floor['cat']:.2f} s, cp of one {floor['cp']:.2f} s")
    if options.record:
        values = {m: {tool: figures._asdict() for tool, figures in tools.items()} for m, tools in rows.items()}
        found = {"floor": floor, "experts": options.experts, "runs": options.runs, "load": load, "methods": values}
        write_record(options.record, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fusionbench-checkpoints")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--methods", help="names from this file, separated by commas; all by default")
    parser.add_argument("--mergekit", help="path of mergekit-yaml")
    parser.add_argument("--fusion-bench", help="path of the python that has fusion-bench")
    parser.add_argument("--sd-mecha", help="path of the python that has sd-mecha")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--force", action="store_true", help="measure on a busy machine")
    return parser.parse_args()


def _commands(
    method: str, base: Path, experts: list[Path], scratch: Path, options: argparse.Namespace
) -> dict[str, Callable[[], list[str]]]:
    out = scratch / "out"

    def clean(command: list[str]) -> Callable[[], list[str]]:
        def fresh() -> list[str]:
            shutil.rmtree(out, ignore_errors=True)
            return command

        return fresh

    ours = [str(Path(sys.executable).with_name("fusionbench")), "merge", f"base={base}"]
    ours += [f"experts.{folder.name}={folder}" for folder in experts]
    commands = {"fusionbench": clean([*ours, *OURS[method], "--out", str(out)])}
    if options.mergekit and method in MERGEKIT:
        recipe = scratch / f"{method}.yml"
        recipe.write_text(json.dumps(_mergekit_recipe(MERGEKIT[method], base, experts)))
        commands["mergekit"] = clean([options.mergekit, str(recipe), str(out)])
    folders = [str(base), str(out), *map(str, experts)]
    for tool, python, known in (
        ("fusion-bench", options.fusion_bench, FUSION_BENCH), ("sd-mecha", options.sd_mecha, SD_MECHA)
    ):  # fmt: skip
        if python and method in known:
            script = HERE / "peers" / f"{tool.replace('-', '_')}_merge.py"
            commands[tool] = clean([python, str(script), method, *folders])
    return commands


def _mergekit_recipe(recipe: dict[str, object], base: Path, experts: list[Path]) -> dict[str, object]:
    each = recipe.get("each", {})
    models = [{"model": str(folder), "parameters": each} for folder in experts]
    document: dict[str, object] = {"merge_method": recipe["merge_method"], "models": models, "dtype": "bfloat16"}
    if recipe["merge_method"] != "linear":
        document["base_model"] = str(base)
    if "parameters" in recipe:
        document["parameters"] = recipe["parameters"]
    return document


def _median(figures: list[Figures]) -> Figures:
    return Figures(*(statistics.median(column) for column in zip(*figures, strict=True)))


def _print(method: str, tools: dict[str, Figures]) -> None:
    ours = tools["fusionbench"]
    for tool, figures in tools.items():
        ratio = "" if tool == "fusionbench" else f"  {figures.wall / ours.wall:5.1f} × ours"
        print(
            f"{method:16} {tool:13} {figures.wall:7.2f} s wall  {figures.cpu:7.2f} s cpu  "
            f"{figures.anonymous:7.0f} MB anonymous  {figures.resident:7.0f} MB resident{ratio}",
            flush=True,
        )


def _floor(folders: list[Path], scratch: Path) -> dict[str, float]:
    files = [folder / "model.safetensors" for folder in folders]
    started = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 20):
                pass
    read = time.perf_counter() - started
    started = time.perf_counter()
    shutil.copyfile(files[0], scratch / "copy")
    return {"cat": read, "cp": time.perf_counter() - started}


if __name__ == "__main__":
    main()
