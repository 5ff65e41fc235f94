"""Experiments, searches and evaluations are the same by every launcher as by none, a killed worker or not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.config import Recipe, RuntimeConfig, SuiteConfig, TasksConfig
from fusionbench.experiments.model import Experiment
from fusionbench.experiments.rendering import as_csv
from fusionbench.experiments.reproduce import reproduce
from fusionbench.run import divided, evaluate_model
from fusionbench.sweep import run_all, search
from launched_here import jobs_here

Make = Callable[..., Recipe]
LAUNCHERS = {
    "processes": ["launcher=processes", "launcher.workers=2"],
    "ray": ["launcher=ray", "launcher.workers=2"],
    "slurm": ["launcher=slurm", "launcher.address=local", "launcher.workers=2"],
}
PACKAGES = {"ray": "ray", "slurm": "submitit"}
# Ray and submitit warn of what is theirs to mend.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("cache")]


@pytest.fixture(params=[*LAUNCHERS])
def launcher(request: pytest.FixtureRequest) -> list[str]:
    """The overrides of a launcher; the test is skipped where its package is not installed."""
    if request.param in PACKAGES:
        pytest.importorskip(PACKAGES[request.param])
    return LAUNCHERS[request.param]


def reports(folder: Path) -> dict[str, bytes]:
    """The bytes of every report below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("**/report.json")}


def test_an_experiment(launcher: list[str], noisy: Path, tmp_path: Path) -> None:
    suite = {"name": str(noisy)}
    rows = [
        {"label": "average", "method": {"name": "simple_average"}},
        {"label": "sum", "method": {"name": "task_arithmetic"}, "select": {"method.scale": ["0.1", "0.3"]}},
    ]
    document = {"name": "noise", "title": "Noise", "paper": "arXiv:0000.00000", "rows": rows}
    experiment = Experiment.read({"suite": suite, "stand_in": suite, **document}, "The experiment")
    expected = reproduce(experiment, tmp_path / "here", seeds=(0, 1))
    found = reproduce(experiment, tmp_path / "there", seeds=(0, 1), runtime=RuntimeConfig.load(launcher))
    assert as_csv(found) == as_csv(expected)
    assert reports(tmp_path / "there") == reports(tmp_path / "here")
    assert len(reports(tmp_path / "here")) == 8


def test_a_search(launcher: list[str], noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    asked = [f"suite={noisy}", "method=task_arithmetic", "method.scale=interval(0,1)"]
    found = search(None, [*asked, *launcher], tmp_path / "there", trials=3)
    jobs_here(monkeypatch)
    expected = search(None, [*asked, "launcher=processes", "launcher.workers=2"], tmp_path / "here", trials=3)
    assert (found.trials, found.best) == (expected.trials, expected.best)
    assert reports(tmp_path / "there") == reports(tmp_path / "here")


def test_an_evaluation(launcher: list[str], noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Smaller batches, so that each of the two tasks has three parts of twelve examples.
    monkeypatch.setattr(divided, "BATCH", 4)
    asked = str(noisy.parent / "cats"), SuiteConfig(name=str(noisy)), TasksConfig()
    found = evaluate_model(*asked, runtime=RuntimeConfig.load([*launcher, "launcher.workers=3"]))
    assert found == evaluate_model(*asked)
    assert len(list(tmp_path.glob("runs/evaluated/*/tasks/*.parquet"))) == 2


KILLING = """
import os, pathlib, signal
import fusionbench.launch.jobs as jobs
real = jobs.perform
def perform(job):
    death = pathlib.Path(os.environ["DEATH"])
    if job["recipe"]["method"]["scale"] == 0.5 and death.exists():
        death.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(job)
jobs.perform = perform
"""


def test_a_ray_worker_that_is_killed_in_a_run_is_replaced(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text(KILLING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'own'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("DEATH", str(tmp_path / "death"))
    (tmp_path / "death").touch()
    outcomes = list(run_all([make(scale, *LAUNCHERS["ray"]) for scale in (0.3, 0.5, 0.7)], tmp_path / "there"))
    assert not (tmp_path / "death").exists()
    assert [outcome.error for outcome in outcomes] == [None] * 3
    plain = list(run_all([make(scale) for scale in (0.3, 0.5, 0.7)], tmp_path / "here"))
    assert [o.result and o.result.report for o in outcomes] == [o.result and o.result.report for o in plain]
