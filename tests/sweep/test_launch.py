"""Every launcher gives what runs one after another give."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError, Interrupted, MissingExtra
from fusionbench.launch.jobs import perform
from fusionbench.sweep import Outcome, run_all, run_as_finished
from fusionbench.sweep.launched import job_of, outcome_of
from launched_here import jobs_here

Make = Callable[..., Recipe]
PROCESSES = ["runtime.launcher.name=processes", "runtime.launcher.workers=2"]
OTHERS = {
    "processes": PROCESSES,
    "ray": ["runtime.launcher.name=ray", "runtime.launcher.workers=2"],
    "slurm": ["runtime.launcher.name=slurm", "runtime.launcher.address=local", "runtime.launcher.workers=2"],
}
PACKAGES = {"ray": "ray", "slurm": "submitit"}


def launched_by(name: str) -> list[str]:
    """The overrides of a launcher; the test is skipped where its package is not installed."""
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    return OTHERS[name]


def seen(outcomes: list[Outcome]) -> list[object]:
    """What a reader of reports sees of outcomes: digests of numbers and weights, or the error."""
    found: list[object] = []
    for outcome in outcomes:
        if outcome.result is None:
            found.append((type(outcome.error), str(outcome.error)))
            continue
        folder = outcome.result.folder
        files = [folder / "report.json", *sorted((folder / "model").glob("*.safetensors"))]
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        found.append((folder.name, outcome.result.report, outcome.result.reused, digests))
    return found


def mixed(make: Make, tmp_path: Path, *overrides: str) -> list[Recipe]:
    """Three runs, one of them asked for twice, and one that fails."""
    missing = make(0.3, f"experts.b={tmp_path / 'models' / 'nowhere'}", *overrides)
    return [make(0.3, *overrides), make(0.5, *overrides), missing, make(0.3, *overrides), make(0.7, *overrides)]


@pytest.mark.parametrize("name", ["processes", *(pytest.param(name, marks=pytest.mark.slow) for name in PACKAGES)])
# Ray and submitit warn of what is theirs to mend.
@pytest.mark.filterwarnings("ignore")
def test_every_launcher_gives_what_this_process_gives(name: str, make: Make, tmp_path: Path) -> None:
    overrides = launched_by(name)
    expected = seen(list(run_all(mixed(make, tmp_path), tmp_path / "here")))
    assert [row[0] for row in expected[:1]] == [expected[3][0]]
    assert expected[2][0] is CheckpointError
    there = tmp_path / "there"
    assert seen(list(run_all(mixed(make, tmp_path, *overrides), there))) == expected
    # The launcher is not in the identity: without it the runs are found.
    again = list(run_all(mixed(make, tmp_path), there))
    assert [outcome.result and outcome.result.reused for outcome in again] == [True, True, None, True, True]


def test_outcomes_come_as_they_finish_and_are_reported_in_the_order_of_the_recipes(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs_here(monkeypatch)
    recipes = [make(scale, *PROCESSES) for scale in (0.1, 0.2, 0.3, 0.4)]
    # Jobs are done last first here.
    assert [number for number, _ in run_as_finished(recipes, tmp_path / "finished")] == [3, 2, 1, 0]
    said = []
    outcomes = list(run_all(recipes, tmp_path / "runs", progress=lambda *progress: said.append(progress)))
    assert [outcome.recipe for outcome in outcomes] == recipes
    assert said == [("runs", done, 4) for done in range(5)]


def test_recipes_of_different_launchers_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one launcher"):
        list(run_all([make(0.3), make(0.5, *PROCESSES)], tmp_path / "runs"))
    assert list(run_all([], tmp_path / "runs")) == []


@pytest.mark.parametrize(("name", "package"), [*PACKAGES.items()])
def test_a_launcher_whose_package_is_missing_says_how_to_get_it(
    name: str, package: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"fusionbench\[{name}\]"):
        list(run_all([make(0.3, *OTHERS[name])], tmp_path / "runs"))


def test_a_launcher_is_written_short_or_with_its_keys() -> None:
    start = ["experts.a=./a", "method=simple_average"]
    short = Recipe.load(None, [*start, "runtime.launcher=processes"])
    assert short == Recipe.load(None, [*start, "runtime.launcher.name=processes"])
    assert Recipe.read(short.dump()) == short
    with pytest.raises(ConfigError, match=r"runtime\.launcher.*processes.*ray.*slurm"):
        Recipe.load(None, [*start, "runtime.launcher=pigeons"])


def test_a_bug_in_a_run_is_a_row_with_its_traceback(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr("fusionbench.sweep.local.run", broken)
    answer = perform(job_of(make(0.3, *PROCESSES), tmp_path))
    outcome = outcome_of(make(0.3), tmp_path, answer)
    assert outcome.result is None
    assert "A bug ended this run" in str(outcome.error)
    assert "ZeroDivisionError: a bug of ours" in str(outcome.error)


def test_an_error_at_a_worker_is_the_outcome(make: Make, tmp_path: Path) -> None:
    outcome = outcome_of(make(0.3), tmp_path, {"error": "MissingPart", "message": "The family 'x' has no y."})
    assert type(outcome.error).__name__ == "MissingPart"
    assert str(outcome.error) == "The family 'x' has no y."


def test_runs_are_named_by_their_caller(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = jobs_here(monkeypatch)
    names = ["first", "second", "third"]
    for overrides in ([], PROCESSES):
        # Two equal recipes with other names are two runs.
        recipes = [make(0.3, *overrides), make(0.3, *overrides), make(0.5, *overrides)]
        outcomes = list(run_all(recipes, tmp_path / f"runs-{len(overrides)}", names=names))
        assert [outcome.result and outcome.result.folder.name for outcome in outcomes] == names
        assert [outcome.result and outcome.result.reused for outcome in outcomes] == [False] * 3
    assert given == [3]


def test_ctrl_c_stops_all_and_keeps_what_is_finished(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusionbench.launch import processes

    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        process = real(command, **options)  # type: ignore[call-overload]
        started.extend([process] * (command[-1] == "fusionbench.launch.worker"))
        return process

    def stop(what: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(processes.subprocess, "Popen", start)
    recipes = [make(scale / 100, *PROCESSES) for scale in range(40)]
    with pytest.raises(Interrupted, match="the same command goes on"):
        list(run_all(recipes, tmp_path / "runs", progress=stop))
    assert [process.returncode is None for process in started] == [False, False]
    finished = {path.parent.name for path in (tmp_path / "runs").glob("*/report.json")}
    assert 1 <= len(finished) < len(recipes)
    kept = [outcome.result for outcome in run_all([make(scale / 100) for scale in range(40)], tmp_path / "runs")]
    assert {result.folder.name for result in kept if result and result.reused} == finished


KILLING = """
import os, pathlib, runpy, signal, sys
import fusionbench.launch.jobs as jobs
real = jobs.perform
def perform(job):
    print("a library that prints", flush=True)
    count = pathlib.Path(os.environ["DEATHS"])
    if job["recipe"]["method"]["scale"] == 0.5 and (left := int(count.read_text())):
        count.write_text(str(left - 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return real(job)
jobs.perform = perform
runpy.run_module("fusionbench.launch.worker", run_name="__main__")
"""


WAITING = """
import runpy, sys, threading
import fusionbench.launch.jobs as jobs
def perform(job):
    print("begun", file=sys.stderr, flush=True)
    threading.Event().wait()
jobs.perform = perform
runpy.run_module("fusionbench.launch.worker", run_name="__main__")
"""


def test_a_worker_stops_in_the_midst_of_a_run_when_whoever_started_it_is_gone() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", WAITING], stdin=pipe, stdout=pipe, stderr=pipe) as worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        worker.stdin.write(b"{}\n")
        worker.stdin.flush()
        assert worker.stderr.readline() == b"begun\n"
        worker.stdin.close()
        try:
            assert worker.wait(timeout=60) == 130
        finally:
            worker.kill()


@pytest.fixture
def killing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let workers kill themselves at the run of scale 0.5, as often as the file says that is returned."""
    from fusionbench.launch import processes

    real, count = subprocess.Popen, tmp_path / "deaths"

    def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        # Others start processes too, as to ask for the machine's name.
        worker = command[-1] == "fusionbench.launch.worker"
        return real([sys.executable, "-c", KILLING] if worker else command, **options)  # type: ignore[call-overload]

    monkeypatch.setenv("DEATHS", str(count))
    monkeypatch.setattr(processes.subprocess, "Popen", start)
    return count


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_run_tried_once_more(make: Make, tmp_path: Path, killing: Path) -> None:
    killing.write_text("1")
    expected = seen(list(run_all([make(scale) for scale in (0.3, 0.5, 0.7)], tmp_path / "here")))
    found = list(run_all([make(scale, *PROCESSES) for scale in (0.3, 0.5, 0.7)], tmp_path / "there"))
    assert seen(found) == expected
    assert killing.read_text() == "0"


@pytest.mark.slow
def test_a_run_that_kills_two_workers_is_a_row_with_the_reason(make: Make, tmp_path: Path, killing: Path) -> None:
    killing.write_text("9")
    lost = list(run_all([make(scale, *PROCESSES) for scale in (0.3, 0.5, 0.7)], tmp_path / "runs"))
    assert [outcome.result is None for outcome in lost] == [False, True, False]
    # The end of what the process wrote is in it, whichever stream it went to.
    assert "lost twice (signal SIGKILL: a library that prints" in str(lost[1].error)
    assert killing.read_text() == "7"
