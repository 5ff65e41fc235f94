"""The command line, as something that can be killed, on a suite that takes a moment."""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dying import Command, Line

from fusionbench.cli import main
from noise_suite import make_suite
from tiny_clip import clip_folder, make_clip, other_clip_folder

__all__ = ["clip_folder", "other_clip_folder"]
IMPORTED = ("experiments.reproduce", "report", "run", "suites.tuning", "sweep")
"""Else each child would import it."""
TABLE = {
    "title": "Noise",
    "paper": "arXiv:0000.00000",
    "suite": {"name": "clip-vit-b32/ta8"},
    "rows": [
        {"label": "average", "method": {"name": "simple_average"}},
        {"label": "sum", "method": {"name": "task_arithmetic"}, "select": {"method.scale": ["0.1", "0.3"]}},
    ],
}


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path, other_clip_folder: Path) -> Path:
    """The YAML of the noisy suite; beside it is that of an experiment. Neither is to be changed."""
    root = tmp_path_factory.mktemp("suite")
    dogs = tmp_path_factory.mktemp("clip") / "dogs"
    make_clip(dogs, seed=2)
    made = make_suite(root, {"base": clip_folder, "cats": other_clip_folder, "dogs": dogs})
    (root / "table.yaml").write_text(json.dumps({**TABLE, "stand_in": {"name": str(made)}}))
    return made


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that commands share, with machine code, prepared data and heads in it after the first."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def line(suite: Path, cache: Path) -> Line:
    """Return a command from its words, in which `OUT` stands for the folder that it writes.

    With `cold=True` it prepares data and heads once more each time, and may be killed while it does.
    """
    for name in IMPORTED:
        importlib.import_module(f"fusionbench.{name}")

    def made(*words: object, cold: bool = False) -> Command:
        def command(place: Path) -> None:
            own = place / "cache" if cold else cache
            for folder in (cache / "kernels", own):
                folder.mkdir(parents=True, exist_ok=True)
            if cold and not (own / "kernels").exists():
                (own / "kernels").symlink_to(cache / "kernels")
            os.environ["FUSIONBENCH_CACHE"] = str(own)
            sys.argv = ["fusionbench", *(str(word).replace("OUT", str(place / "out")) for word in words)]
            with contextlib.redirect_stdout(io.StringIO()):
                main()

        return command

    return made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 KiB; skipped where nothing may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing may be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)
