"""The command line, in this process or in one of its own, and one cache in which all workers find the tiny suite."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.cli import main

Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder: `./check` leaves them to `.ci/run`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("whole")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that is empty when the session begins and shared by its workers."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared-cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def apart(cache: Path, tmp_path: Path) -> Run:
    """Run the command line as a process of its own; `path` is put before the installed packages."""

    def call(*arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "FUSIONBENCH_CACHE": str(cache), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        if path is not None:
            environment["PYTHONPATH"] = str(path)
        return subprocess.run(
            [sys.executable, "-m", "fusionbench.cli", *map(str, arguments)],
            capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300, check=False,
        )  # fmt: skip

    return call


@pytest.fixture
def fusionbench(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command line in this process, where everything is imported already."""
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["fusionbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        streams = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, int(exited.value.code or 0), streams.out, streams.err)

    return call
