"""Fine-tuning in two processes gives what one gives, up to the order of sums."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from forked import in_double, in_processes
from fusionbench.errors import ConfigError
from fusionbench.families import family_named
from fusionbench.finetune.dividing import check_batch_norms
from fusionbench.finetune.recipe import FinetuneRecipe
from fusionbench.finetune.tune import finetune
from fusionbench.tasks import ImageTask, from_arrays, open_vocabulary_task
from fusionbench.training import ALONE, Processes, joined, read_curve
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights
from tiny_clip import noise

RECIPE = FinetuneRecipe(steps=8, batch=7, learning_rate=1e-2, weight_decay=0.1, warmup=2, seed=3, clip=1.0)
TOLERANCE = 1e-6
"""Of weights that are computed in float64 and written in float32."""


def make_task(base: Path, name: str, seed: int) -> ImageTask:
    def split(count: int, at: int):
        labels = np.arange(count) % 2
        images = noise(count, seed=at) // 2 + (labels * 100).astype(np.uint8)[:, None, None, None]
        return from_arrays(images, labels)

    data = {"train": split(48, seed), "validation": split(20, seed + 1), "test": split(30, seed + 2)}
    return open_vocabulary_task(
        name, data, class_names=("cat", "dog"), templates=["a photo of a {}"], family=family_named("clip"),
        base=open_source(base),
    )  # fmt: skip


@pytest.mark.parametrize("names", [("cats",), ("cats", "birds")])
def test_two_processes_write_what_one_writes(cache, clip_folder, tmp_path, names):
    def tuned(out: Path):
        in_double()
        tasks = {name: make_task(clip_folder, name, 10 * number) for number, name in enumerate(names)}
        processes = joined()
        record = finetune(clip_folder, tasks, out, RECIPE, processes=processes, checkpoint_every=3)
        # What another finished is read.
        assert finetune(clip_folder, tasks, out, RECIPE, processes=processes) == record
        return record

    (alone,) = in_processes(1, lambda: tuned(tmp_path / "alone"))
    two = in_processes(2, lambda: tuned(tmp_path / "two"))
    assert two == [alone, alone]
    first, second = (dict(LazyWeights(open_source(tmp_path / name))) for name in ("alone", "two"))
    moved = dict(LazyWeights(open_source(clip_folder)))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=TOLERANCE, rtol=0)
    assert any(not torch.equal(moved[name], tensor) for name, tensor in first.items())
    curves = [read_curve(tmp_path / name) for name in ("alone", "two")]
    assert [point.metrics["loss"] for point in curves[0]] == pytest.approx(
        [point.metrics["loss"] for point in curves[1]], abs=TOLERANCE
    )
    assert not list(tmp_path.glob("*.training"))


def test_batches_that_normalise_are_not_divided():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    check_batch_norms(module.train(), ALONE)
    check_batch_norms(module.eval(), Processes(0, 2))
    with pytest.raises(ConfigError, match=r"^1 normalises by its batch, which 2 processes would divide.*mtl=true"):
        check_batch_norms(module.train(), Processes(0, 2))


def test_balanced_routers_are_trained_by_one_process(cache, clip_folder, tmp_path):
    recipe = RECIPE.model_copy(update={"balance": 0.01})
    tasks = {"cats": make_task(clip_folder, "cats", 10)}

    def tuned():
        processes = joined()
        with processes.united():
            finetune(clip_folder, tasks, tmp_path / "expert", recipe, processes=processes)

    found = in_processes(2, tuned)
    assert [error.kind for error in found] == ["ConfigError"] * 2
    assert "recipe.balance looks at a whole batch, which 2 processes would divide" in str(found[0])
