"""Recipes of merges so small that a run takes a moment, and a suite of two noisy tasks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from checkpoints import save_model
from fusionbench.config import Recipe
from noise_suite import make_suite
from tiny_clip import cache, clip_folder, make_clip, other_clip_folder

__all__ = ["cache", "clip_folder", "other_clip_folder"]
Make = Callable[..., Recipe]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a merge of two random models by task arithmetic, with overrides."""
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "a", "b"):
        tensors = {f"layer{number}.weight": torch.randn(8, 8, generator=generator) for number in range(3)}
        save_model(tmp_path / "models" / name, tensors, {"model_type": "toy"})
    models = tmp_path / "models"
    start = [f"base={models / 'base'}", f"experts.a={models / 'a'}", f"experts.b={models / 'b'}", "runtime.threads=1"]

    def made(scale: float, *overrides: str) -> Recipe:
        return Recipe.load(None, [*start, "method=task_arithmetic", f"method.scale={scale}", *overrides])

    return made


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path, other_clip_folder: Path) -> Path:
    """The YAML of a suite; not to be changed."""
    dogs = tmp_path_factory.mktemp("clip") / "dogs"
    make_clip(dogs, seed=2)
    return make_suite(tmp_path_factory.mktemp("suite"), {"base": clip_folder, "cats": other_clip_folder, "dogs": dogs})
