"""A pool of tiny CLIPs on disk, a task for it, and what its folders hold."""

import json
from pathlib import Path
from typing import Any

import torch

from fusionbench.config import Recipe
from fusionbench.families.clip import Clip
from fusionbench.merge import Merged
from fusionbench.run.rebuild import rebuild_to
from fusionbench.tasks import ImageTask, from_arrays, open_vocabulary_task
from fusionbench.weights.sources import open_source
from tiny_clip import make_clip, noise


def make_pool(folder: Path, experts: int = 2) -> dict[str, Path]:
    """Write a base and so many experts, each another random CLIP; only the image tower counts."""
    names = ["base", *(f"e{number}" for number in range(experts))]
    for seed, name in enumerate(names):
        if not (folder / name).exists():
            make_clip(folder / name, seed=seed)
    return {name: folder / name for name in names}


def recipe_of(folders: dict[str, Path], method: str, *overrides: str) -> Recipe:
    experts = [f"experts.{name}={path}" for name, path in folders.items() if name != "base"]
    return Recipe.load(None, [f"base={folders['base']}", *experts, f"method={method}", *overrides])


def rebuilt(folders: dict[str, Path], out: Path, method: str, *overrides: str) -> Merged:
    return rebuild_to(recipe_of(folders, method, *overrides), out)


def pets(base: Path, name: str = "pets") -> ImageTask:
    data: Any = {"test": from_arrays(noise(6), torch.tensor([0, 1, 0, 1, 1, 0]).numpy())}
    return open_vocabulary_task(
        name, data, class_names=["cat", "dog"], templates=["a {}"], family=Clip(), base=open_source(base)
    )


def logits(fused: Any, task: ImageTask) -> torch.Tensor:
    (batch,) = task.batches("test", size=6)
    with torch.inference_mode():
        return fused.for_task(task)(batch)


def blueprint_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "fusion_config.json").read_text())
