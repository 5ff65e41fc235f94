"""Measure the report page: how large it is with many runs, and how long headless Chromium takes to open it.

Run on an idle machine:  .venv/bin/python benchmarks/report_page.py --runs 500

The runs are made up: eight tasks, a recipe and an environment each, as a sweep leaves them. What is timed is from the
start of loading to the load event, scripts included (the page's own script runs before it), the median of several
openings, each by a browser of its own.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from fusionbench.config import Recipe
from fusionbench.records import (
    Environment,
    MethodRef,
    MetricInfo,
    ModelFacts,
    Report,
    RunInfo,
    Score,
    SuiteRef,
    TaskScore,
    Variant,
)
from fusionbench.report import report

TASKS = ("mnist", "digits", "fashion", "emoji", "signs", "glyphs", "textures", "land")
METHODS = ("task_arithmetic", "ties", "dare", "della", "breadcrumbs")
FRAME = """<!doctype html><pre id="answer"></pre><script>
const started = performance.now(), frame = document.createElement("iframe");
frame.width = 1280; frame.height = 900; frame.src = "{page}";
frame.addEventListener("load", () => {{
  const loaded = performance.now() - started, table = frame.contentDocument.querySelector("table");
  const box = frame.contentDocument.querySelector("[data-filter]"), before = performance.now();
  box.value = "scale=0.5"; box.dispatchEvent(new Event("input")); table.getBoundingClientRect();
  const filtered = performance.now() - before, again = performance.now();
  table.tHead.rows[0].cells[1].querySelector("button").click(); table.getBoundingClientRect();
  const rows = table.querySelectorAll("tbody tr").length;
  const answer = {{ loaded, filtered, sorted: performance.now() - again, rows }};
  document.getElementById("answer").textContent = JSON.stringify(answer);
}});
document.body.append(frame);
</script>"""


def write_runs(folder: Path, count: int) -> None:
    """Write finished runs: five methods at a hundred scales each."""
    metrics = {"accuracy": MetricInfo(unit="fraction", better="higher")}
    for number in range(count):
        method, scale = METHODS[number % len(METHODS)], round(0.01 * (1 + number // len(METHODS)), 2)
        scores = {
            task: TaskScore.of(
                {"accuracy": Score(value=0.5 + 0.001 * ((number * 7 + place) % 400), n=2000, stderr=0.01)}
            )
            for place, task in enumerate(TASKS)
        }
        variant = Variant.build(scores, metrics, model=ModelFacts(kind="weights", parameters=147_584, bytes=590_336))
        document = {"suite": {"name": "mini/clip"}, "method": {"name": method, "scale": scale}}
        written = Report.build(
            identity=f"sha256:{number:064x}", suite=SuiteRef(name="mini/clip", size="small", seed=0, build="b0"),
            method=MethodRef(name=method, params={"scale": scale}), variants=[variant], metrics=metrics,
            inputs=dict.fromkeys(("base", *TASKS), f"fp:{number:064x}"),
        )  # fmt: skip
        place = folder / f"{method}-{number:04d}"
        place.mkdir(parents=True)
        (place / "recipe.yaml").write_text(Recipe.read(document, "made up").to_yaml())
        RunInfo(
            command=("fusionbench", "run", "suite=mini/clip", f"method={method}", f"method.scale={scale}"),
            date="2026-05-04T09:30:00+00:00", host="somewhere", seconds=12.5 + number % 7,
            phases={"load": 0.5, "fuse": 2.0 + number % 5, "evaluate": 10.0}, peak_memory=512 * 2**20,
            environment=Environment(python="3.11.9", platform="Linux", versions={"fusionbench": "0.1.0"}),
        ).save(place)  # fmt: skip
        written.save(place)


def opened(chromium: str, frame: Path) -> dict[str, float]:
    """Return what a fresh browser measured."""
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
        options += [f"--user-data-dir={profile}", "--timeout=20000"]
        ended = subprocess.run([chromium, *options, frame.as_uri()], capture_output=True, text=True, check=True)
    found = re.search(r'<pre id="answer">(.+?)</pre>', ended.stdout)
    if not found:
        raise SystemExit("The browser gave no answer.")
    return dict(json.loads(found[1]))


def main() -> None:
    """Write the runs and the page, open it, and print the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--openings", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="keep runs and page in this folder")
    asked = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("This needs Chromium (Debian: apt install chromium).")
    folder = asked.keep or Path(tempfile.mkdtemp())
    write_runs(folder / "runs", asked.runs)
    before = time.perf_counter()
    (page,) = report([folder / "runs"], ["html"], folder)
    written = time.perf_counter() - before
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(page=page.as_uri()))
    found = [opened(chromium, frame) for _ in range(asked.openings)]
    medians = {
        f"{key}_ms": round(statistics.median(each[key] for each in found), 1)
        for key in ("loaded", "filtered", "sorted")
    }
    print(
        json.dumps(
            {
                "runs": asked.runs,
                "rows": found[0]["rows"],
                "bytes": page.stat().st_size,
                "written_s": round(written, 1),
                **medians,
            }
        )
    )


if __name__ == "__main__":
    main()
