"""Fine-tuning in two processes gives what one gives, up to the order of sums."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from forked import in_double, in_processes
from fusionbench.errors import ConfigError
from fusionbench.families import family_named
from fusionbench.finetune.dividing import shared_statistics
from fusionbench.finetune.recipe import FinetuneRecipe
from fusionbench.finetune.tune import finetune
from fusionbench.tasks import ImageTask, from_arrays, open_vocabulary_task
from fusionbench.training import ALONE, Loop, Processes, Steps, joined, read_curve, step_of, tensors_of
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


class Normalising(nn.Module):
    """Convolutions and layers with every kind of BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
        self.third, self.fourth = nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False, momentum=None)
        self.frozen, self.last = nn.BatchNorm1d(4), nn.Linear(4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.second(self.first(images))).mean(dim=(2, 3))
        return self.last(self.frozen(torch.tanh(self.fourth(self.third(maps)))))


def images(start: int) -> Iterator[dict[str, torch.Tensor]]:
    position = start
    while True:
        yield {"x": torch.randn(7, 2, 5, 5, generator=torch.Generator().manual_seed(position))}
        position += 1


def normalised() -> dict[str, list[float]]:
    """All tensors of a module that was trained on batches of seven."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    processes, module = joined(), Normalising().train()
    module.frozen.eval()
    before = type(module.second).forward

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        part, share = processes.part_of(batch)
        return share * (module(part["x"]) - part["x"].sum(dim=(1, 2, 3))[:, None]).square().mean()

    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    with shared_statistics(module, processes, batch=7):
        loop = Loop(processes=processes)
        loop.run("n", Steps(5, accumulate=2), step_of(loss), images, tensors_of(module), optimizer)
    assert module.second.forward.__func__ is before
    return {name: tensor.flatten().tolist() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("count", [2, 4])
def test_a_divided_batch_is_normalised_as_a_whole(count):
    (alone,) = in_processes(1, normalised)
    for found in in_processes(count, normalised):
        assert found.keys() == alone.keys()
        for name, values in alone.items():
            assert found[name] == pytest.approx(values, abs=1e-10), name
    assert alone["second.num_batches_tracked"] == [10]
    assert alone["frozen.num_batches_tracked"] == [0]


def test_a_process_without_an_example_of_a_batch_that_normalises_is_refused():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    refused = pytest.raises(ConfigError, match=r"recipe\.batch=2: 3 processes divide a batch that normalises")
    with refused, shared_statistics(module, Processes(0, 3), 2):
        pass
    with shared_statistics(module.eval(), Processes(0, 3), 2), shared_statistics(module, ALONE, 0):
        assert "forward" not in vars(module[1])


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
