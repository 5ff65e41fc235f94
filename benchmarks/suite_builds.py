"""Time whole builds of the mini suites from an empty cache, and a merge with its evaluation on each.

Run on an idle machine: python benchmarks/suite_builds.py [--size small] [--seed 0] [--suites mini/image,mini/scene]
[--cache FOLDER] [--beside "another build"]. It writes docs/results/suite-builds-<size>.json, where a suite's figures
replace those of an earlier run, so that the builds of a size can be measured in several goes. Suites of adapters begin
with another suite's base, which is built before their time starts. With --cache the builds are kept in a folder, which
must not have them yet; --beside says what else ran, where the machine was not idle.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import Figures, measure
from record import commit, write_record

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SUITES = ("image", "scene", "t5", "t5_lora", "t5_choices", "ia3", "causal_lm", "encoder", "gpt2", "clip")
BEFORE = {"mini/t5_lora": "mini/t5", "mini/ia3": "mini/t5_choices"}
SPACE = {"mini/ia3": ["space=adapter"]}
"""Keys of a merge that a suite asks for."""
BUILD = (
    "import sys; from fusionbench.suites import load_suite; "
    "load_suite(sys.argv[1], size=sys.argv[2], seed=int(sys.argv[3]))"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suites", default=",".join(f"mini/{name}" for name in SUITES))
    parser.add_argument("--size", default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="a cache that keeps the builds; default: a new one for each suite")
    parser.add_argument("--beside", help="what else ran at the same time; default: nothing")
    options = parser.parse_args()
    path = RESULTS / f"suite-builds-{options.size}.json"
    for suite in options.suites.split(","):
        found = {
            **timed(suite, options.size, options.seed, options.cache),
            "beside": options.beside,
            "commit": commit(),
        }
        print(suite, found, flush=True)
        values = json.loads(path.read_text())["values"] if path.exists() else {}
        whole = ["--size", options.size, "--seed", str(options.seed)]
        write_record(path, dict(sorted({**values, suite: found}.items())), whole)


def timed(suite: str, size: str, seed: int, cache: Path | None) -> dict[str, Any]:
    """Return seconds and memory of a build that no cache has, and of a merge with its evaluation on all tasks."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        where = {"FUSIONBENCH_CACHE": str(cache or f"{folder}/cache")}

        def built(name: str) -> Figures:
            return measure([sys.executable, "-c", BUILD, name, size, str(seed)], where, log)

        if suite in BEFORE:
            built(BEFORE[suite])
        build = built(suite)
        run = [sys.executable, "-m", "fusionbench", "run", f"suite={suite}", f"suite.size={size}", f"suite.seed={seed}"]
        merge = measure([*run, *SPACE.get(suite, []), "method=simple_average", "--out", f"{folder}/run"], where, log)
    return {
        "build_seconds": round(build.wall, 1),
        "build_cpu_seconds": round(build.cpu, 1),
        "build_resident_mb": round(build.resident),
        "merge_and_evaluation_seconds": round(merge.wall, 1),
        "merge_and_evaluation_resident_mb": round(merge.resident),
    }


if __name__ == "__main__":
    main()
