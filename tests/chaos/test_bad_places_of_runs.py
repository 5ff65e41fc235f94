"""Runs, fine-tuning, searches and experiments on full and read-only disks, and with inputs that vanish or rot."""

import functools
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dying import WITH_TIMES, Command, Line, Trial, digests, run_until

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
MISTAKE = 2
"""The exit code of what is no bug: one clear message, no trace."""
STEPS = ("method.steps=2", "method.batch=4", "method.batches=1", "method.checkpoint_every=1")
COMMANDS = {
    "run": ("run", "suite=SUITE/suite.yaml", "method=adamerging", *STEPS, "runtime.threads=1"),
    "run -m": ("run", "suite=SUITE/suite.yaml", "method=ties,task_arithmetic", "-m", "runtime.threads=1"),
    "finetune": (
        "finetune", "suite=SUITE/suite.yaml", "tasks=[cats]", "recipe.steps=2", "recipe.batch=4", "checkpoint_every=1",
    ),
    "search": (
        "search", "suite=SUITE/suite.yaml", "method=task_arithmetic", "method.scale=0.1,0.3", "--trials", "2",
        "runtime.threads=1",
    ),
    "reproduce": ("reproduce", "SUITE/table.yaml", "--suite", "mini"),
}  # fmt: skip
Named = Callable[..., Command]


@pytest.fixture(params=COMMANDS)
def named(request: pytest.FixtureRequest, line: Line, suite: Path) -> Named:
    """Return a command on the suite, or on another suite."""
    if request.param == "search":
        pytest.importorskip("optuna")

    def made(folder: Path = suite.parent) -> Command:
        return line(*(word.replace("SUITE", str(folder)) for word in COMMANDS[request.param]), "--out", "OUT")

    return made


def small(limit: int, command: Callable[[], object]) -> None:
    """Run a command whose files may not be larger."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    command()


@pytest.mark.slow
def test_files_that_may_not_grow_are_a_mistake_and_then_it_goes_on(
    named: Named, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trial = Trial(named(), tmp_path, moment=WITH_TIMES)
    for limit in (3000, 20_000, 60_000):
        code = run_until(0, functools.partial(small, limit, trial.command))
        said = capfd.readouterr().err
        assert code in (0, MISTAKE), f"{limit} bytes: {said}"
        assert code == 0 or str(tmp_path) in said
        trial.goes_on(f"{limit} bytes")


@pytest.mark.slow
def test_a_real_full_disk_is_a_mistake(
    named: Named, tmp_path: Path, small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = Trial(named(), tmp_path).expected
    assert run_until(0, lambda: named()(small_disk)) == MISTAKE
    said = capfd.readouterr().err
    assert str(small_disk) in said
    assert "is full" in said or "are free" in said
    left = {name for name in digests(small_disk) if name.endswith(("report.json", "answer.md", "search.json"))}
    assert left <= set(expected)


@pytest.mark.slow
def test_a_real_read_only_disk_is_a_mistake(named: Named, small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert run_until(0, lambda: named()(small_disk)) == MISTAKE
    assert "cannot be written: Read-only file system" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["base/model.safetensors", "cats-data", "suite.yaml"])
def test_an_input_that_vanished_is_a_mistake_that_names_it(
    named: Named, gone: str, suite: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    shutil.copytree(suite.parent, own)
    for name in ("suite.yaml", "table.yaml"):
        (own / name).write_text((own / name).read_text().replace(str(suite.parent), str(own)))
    path = own / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run_until(0, lambda: named(own)(tmp_path / "place")) == MISTAKE
    assert str(path.parent if gone.startswith("base") else path) in capfd.readouterr().err
    assert not list(tmp_path.glob("place/out/**/report.json"))


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 9, 500, -1])
def test_an_input_whose_byte_rots_is_refused_or_another_input(
    place: int, line: Line, suite: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    shutil.copytree(suite.parent, own)
    command = line("run", f"suite={own / 'suite.yaml'}", "method=task_arithmetic", "runtime.threads=1", "--out", "OUT")
    trial = Trial(command, tmp_path)
    assert run_until(0, trial.command) == 0
    path = own / "cats" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 0x01
    path.write_bytes(content)
    # The folder holds a run of other inputs: it is neither taken for this one's nor written over.
    assert run_until(0, trial.command) == MISTAKE
    said = capfd.readouterr().err
    assert "holds another run" in said or str(path) in said
