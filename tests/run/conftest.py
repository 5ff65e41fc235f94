"""A suite of two noisy image tasks and three tiny CLIPs, as a YAML, so that a run takes a second."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.config import Recipe
from noise_suite import make_suite
from tiny_clip import cache, clip_folder, make_clip, other_clip_folder
from tiny_texts import gpt2_folder

__all__ = ["cache", "clip_folder", "gpt2_folder", "other_clip_folder"]
Make = Callable[..., Recipe]


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path, other_clip_folder: Path) -> Path:
    """The suite's folder; not to be changed."""
    root = tmp_path_factory.mktemp("suite")
    dogs = tmp_path_factory.mktemp("clip") / "dogs"
    make_clip(dogs, seed=2)
    make_suite(root, {"base": clip_folder, "cats": other_clip_folder, "dogs": dogs})
    return root


@pytest.fixture
def suite(planted: Path, tmp_path: Path, cache: Path) -> Path:
    """The suite's YAML, in a copy of the test's own."""
    shutil.copytree(planted, tmp_path / "suite")
    return tmp_path / "suite" / "suite.yaml"


@pytest.fixture
def recipe(suite: Path) -> Make:
    """Return a recipe on the suite."""

    def made(method: str, *overrides: str) -> Recipe:
        return Recipe.load(None, [f"suite={suite}", f"method={method}", "runtime.threads=1", *overrides])

    return made
