"""`mini/causal_lm` with four tasks of the LM Evaluation Harness, of the kinds of the Mistral table. No torch here."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from fusionbench.cache import cache_folder
from fusionbench.suites.load import load_suite
from fusionbench.suites.mini.causal_lm_recipe import recipes
from fusionbench.suites.model import ResolvedSuite, TaskPool
from fusionbench.suites.registration import Progress, suite
from fusionbench.weights.partial import whole_folder

NAME, VERSION = "mini/causal_lm_harness", 1
FILES = Path(__file__).resolve().parents[2] / "presets" / "harness"
DATA = "DATA"
"""In the harness's files: stands for the folder of the suite's data, which only a build knows."""
TASKS: dict[str, dict[str, Any]] = {
    "harness_categories": {"dataset": "fusionbench_categories", "options": {"metric": "acc"}},
    "harness_mass": {"dataset": "fusionbench_categories_mass", "options": {"metric": "acc"}},
    "harness_arithmetic": {
        "dataset": "fusionbench_arithmetic", "options": {"metric": "exact_match", "filter": "flexible-extract"},
    },
    "harness_sentiment": {"dataset": "fusionbench_sentiment", "options": {"metric": "acc_norm"}},
}  # fmt: skip
"""Kinds of MMLU, TruthfulQA mc2, GSM8K and ARC, in that order."""


@suite(NAME, version=VERSION, method_defaults=recipes()[1])
def mini_causal_lm_harness(*, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
    """The models of `mini/causal_lm`, scored on four local tasks by the LM Evaluation Harness; needs no network.

    Args:
        size: see `mini/causal_lm`.
        seed: likewise.
        progress: told how a build goes on.

    Raises:
        ConfigError: where there is no such size.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    resolved = load_suite("mini/causal_lm", size=size, seed=seed, progress=progress)
    known = resolved.suite.tasks.tasks
    data = Path(str(known["categories"]["dataset"])).parent
    include, digest = write_tasks(data)
    own = {
        name: {"kind": "lm_eval", "dataset": item["dataset"], "options": {**item["options"], "include": str(include)}}
        for name, item in TASKS.items()
    }
    changed = resolved.suite.model_copy(
        update={"name": NAME, "tasks": TaskPool(tasks={**known, **own}), "unseen": tuple(own)}
    )
    return replace(resolved, suite=changed, build=f"{resolved.build}/harness:{digest}")


def write_tasks(data: Path) -> tuple[Path, str]:
    """Return the folder of the harness's files that read a build's data, written where it is missing, and its digest.

    Raises:
        OutputError: where the cache's disk is full or cannot be written.
    """
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(FILES.glob("*.*"))}
    digest = hashlib.sha256(repr(texts).encode()).hexdigest()[:12]
    place = cache_folder("harness") / hashlib.sha256(f"{digest} {data}".encode()).hexdigest()[:12]
    with FileLock(place.with_suffix(".lock")):
        if not place.is_dir():
            with whole_folder(place) as folder:
                for name, text in texts.items():
                    (folder / name).write_text(text.replace(DATA, str(data)), encoding="utf-8")
    return place, digest
