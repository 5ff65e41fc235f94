"""Folders of finished runs, made without running anything: the numbers are typed in by the tests."""

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from fusionbench.records import (
    Environment,
    MethodRef,
    MetricInfo,
    ModelFacts,
    Report,
    Run,
    RunInfo,
    Score,
    SuiteRef,
    TaskScore,
    Variant,
)

ACCURACY = {"accuracy": MetricInfo(unit="fraction", better="higher")}
MINI_CLIP = SuiteRef(name="mini/clip", size="small", seed=0, build="b0")
TASKS = ("mnist", "digits", "fashion", "emoji", "signs", "glyphs", "textures", "land")
PUBLISHED = {
    "pretrained": (0.441, 0.481, 0.621, 0.523, 0.493, 0.469, 0.468, 0.458),
    "individual": (0.902, 0.933, 0.898, 0.952, 0.945, 0.867, 0.937, 0.918),
    "simple_average": (0.548, 0.621, 0.749, 0.611, 0.630, 0.539, 0.625, 0.603),
    "adamerging": (0.771, 0.767, 0.846, 0.811, 0.825, 0.570, 0.757, 0.560),
}
"""Accuracies of a mini suite, by method, in the order of `TASKS`."""

Scores = Mapping[str, Mapping[str, float]]
MakeRun = Callable[..., Run]


def task_scores(values: Scores, unseen: tuple[str, ...], stderr: float | None) -> dict[str, TaskScore]:
    """Return task scores from plain numbers by task and metric."""
    return {
        task: TaskScore.of(
            {name: Score(value=value, n=1000, stderr=stderr) for name, value in metrics.items()},
            seen=task not in unseen,
        )
        for task, metrics in values.items()
    }


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return a function that writes one finished run below `tmp_path/runs` and returns it as read from disk."""

    def make(
        folder: str,
        method: str,
        values: Scores,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, MetricInfo] = ACCURACY,
        individual: Mapping[str, float] | None = None,
        unseen: tuple[str, ...] = (),
        stderr: float | None = 0.01,
        suite: SuiteRef | None = MINI_CLIP,
        seed: int = 0,
        recipe: Mapping[str, Any] | None = None,
        notes: tuple[str, ...] = (),
        seconds: float = 12.5,
        identity: str | None = None,
    ) -> Run:
        variant = Variant.build(
            task_scores(values, unseen, stderr),
            metrics,
            individual=individual,
            model=ModelFacts(kind="weights", parameters=147_584, bytes=590_336),
        )
        report = Report.build(
            identity=identity or f"sha256:{folder.encode().hex():0<64}",
            suite=suite,
            seed=seed,
            method=MethodRef(name=method, params=dict(params or {})),
            variants=[variant],
            metrics=metrics,
            inputs={"base": "fp:00"},
            notes=notes,
        )
        info = RunInfo(
            command=("fusionbench", "run", f"method={method}"),
            date="2026-05-04T09:30:00+00:00",
            host="somewhere",
            seconds=seconds,
            phases={"load": 0.5, "fuse": 2.0, "evaluate": 10.0},
            peak_memory=512 * 2**20,
            environment=Environment(python="3.11.9", platform="Linux", versions={"fusionbench": "0.1.0"}),
        )
        place = tmp_path / "runs" / folder
        place.mkdir(parents=True)
        written = {"suite": suite.name if suite else None, "method": {"name": method, **(params or {})}, "seed": seed}
        (place / "recipe.yaml").write_text(yaml.safe_dump({**written, **(recipe or {})}, sort_keys=False))
        info.save(place)
        report.save(place)
        return Run.load(place)

    return make


@pytest.fixture
def make_accuracies(make_run: MakeRun) -> MakeRun:
    """Return `make_run` for one accuracy a task: `make_accuracies("a", "ties", {"mnist": 0.5})`."""

    def make(folder: str, method: str, values: Mapping[str, float], **options: Any) -> Run:
        return make_run(folder, method, {task: {"accuracy": value} for task, value in values.items()}, **options)

    return make


@pytest.fixture
def mini_clip(make_accuracies: MakeRun) -> list[Run]:
    """Return the rows of `PUBLISHED` and task arithmetic at five scales."""
    alone = dict(zip(TASKS, PUBLISHED["individual"], strict=True))
    options: dict[str, Any] = {"individual": alone}
    runs = [
        make_accuracies(f"{method}-00", method, dict(zip(TASKS, values, strict=True)), **options)
        for method, values in PUBLISHED.items()
    ]
    for scale, average in ((0.1, 0.583), (0.2, 0.662), (0.3, 0.700), (0.5, 0.637), (1.0, 0.337)):
        values = {task: round(average + 0.02 * (index - 3.5), 4) for index, task in enumerate(TASKS)}
        folder = f"task_arithmetic-{scale}"
        runs.append(make_accuracies(folder, "task_arithmetic", values, params={"scale": scale}, **options))
    return runs


class Opened(NamedTuple):
    """A page as a browser left it, and every line that it wrote to the console."""

    page: str
    errors: list[str]


@pytest.fixture
def browser(tmp_path: Path) -> Callable[[Path], Opened]:
    """Return a function that opens a file in headless Chromium, lets its scripts run, and returns what became of it."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if chromium is None:
        pytest.skip(
            "needs Chromium: no chromium, google-chrome or chrome was found on PATH (Debian: apt install chromium)"
        )

    def opened(file: Path) -> Opened:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
        options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--enable-logging=stderr"]
        ended = subprocess.run(
            [chromium, *options, file.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        return Opened(ended.stdout, re.findall(r"CONSOLE[^]]*\] (.*)", ended.stderr))

    return opened
