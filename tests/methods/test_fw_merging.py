"""FW-Merging: the worked step, the oracle, the walk in the hull, the soft variant, resume and refusals."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_concrete import Net, Stopped, pool_of
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from toys import Kept, Sides, Toy

from fusionbench.errors import ConfigError, NotAdaptable, NotFinite
from fusionbench.merge import Pool
from fusionbench.methods._deltas import MergedModule
from fusionbench.methods._frank_wolfe import cosines, mixture
from fusionbench.methods.fw_merging import fw_merging
from fusionbench.training import read_curve
from fusionbench.weights.tensors import TensorSource

FAMILY = Toy(Net)


class Labelled(Sides):
    """A task with labels and a size; examples are numbered, so that what was read can be told."""

    count: int = 20
    read: list[tuple[str, int, bool]]

    def size(self, split: str) -> int:
        return self.count

    def batches(
        self, split: str, *, size: int, seed: int | None = None, start: int = 0, limit: int | None = None,
        labels: bool = True,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        if not labels and (limit is not None or seed is None):
            yield from super().batches(split, size=size, seed=seed, start=start, labels=False)
        generator = torch.Generator().manual_seed(self.seed)
        points, classes = torch.randn(64, 3, generator=generator), torch.randint(0, 4, (64,), generator=generator)
        while True:
            at = torch.arange(start, start + size) % 64
            yield {"points": points[at]} | ({"labels": classes[at]} if labels else {})
            start += size

    def loss(self, predict: Any, batch: Any) -> Tensor:
        return cross_entropy(predict(batch), batch["labels"])


class Plane(nn.Module):
    """Logits are the two weights, for any input."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    def forward(self, points: Tensor) -> Tensor:
        return self.w.expand(len(points), 2)


class First(Labelled):
    """The loss is the first logit less the second."""

    def loss(self, predict: Any, batch: Any) -> Tensor:
        return (predict(batch) * torch.tensor([1.0, -1.0])).sum(dim=-1).mean()


def plane_pool(*experts: tuple[float, float]) -> Pool:
    def source(name: str, values: tuple[float, float]) -> TensorSource:
        return TensorSource(name, {"w": torch.tensor(values)}, {"model_type": "toy"})

    return Pool(source("base", (0.0, 0.0)), {n: source(n, v) for n, v in zip("ab", experts, strict=True)})


def tasks_of(pool: Pool, kind: Any = Labelled, family: Any = FAMILY) -> dict[str, Any]:
    return {name: kind(name, family, number) for number, name in enumerate(pool.experts)}


def coefficients(folder: Path) -> Tensor:
    return load_file(folder / "coefficients" / "model.safetensors")["coefficients"]


def test_the_worked_step(tmp_path: Path) -> None:
    """θ = 0, gradient (1, −1) in direction, experts (1, 0) and (0, 1): the second is picked, γ = .1 goes to (0, .1)."""
    pool = plane_pool((1.0, 0.0), (0.0, 1.0))
    kept = Kept(tmp_path)
    fused = fw_merging(
        pool, tasks_of(pool, First, Toy(Plane)), kept.context(Toy(Plane)), start=0.0, iterations=1, step=0.1
    )
    torch.testing.assert_close(fused.weights["w"], torch.tensor([0.0, 0.1]))
    assert kept.used["adapted"] == {"split": "train", "tasks": ("a", "b"), "count": 100}
    assert any("labelled examples of the train split" in note for note in kept.notes)


def reference(pool: Pool, tasks: Any, *, layers: bool, iterations: int, start: float, step: float) -> Tensor:
    """The walk with whole weights and autograd, from the formulas alone."""
    merged = MergedModule(pool, FAMILY)
    deltas = [{n: merged.deltas[n][i].view(merged.base[n].shape) for n in merged.names} for i in range(len(tasks))]
    theta = {n: merged.base[n] + start * sum(d[n] for d in deltas) for n in merged.names}
    for number in range(iterations):
        free = {n: t.clone().requires_grad_(True) for n, t in theta.items()}
        for task in tasks.values():
            batch = next(task.batches("train", size=12, seed=0, start=number * 12))
            cross_entropy(functional_call(Net(), free, (batch["points"],)), batch["labels"]).backward()
        products = torch.stack([torch.stack([(free[n].grad * d[n]).sum() for n in theta]) for d in deltas])
        picks = products.argmin(dim=0) if layers else products.sum(dim=1).argmin().expand(len(theta))
        rate = step * 2 / (number + 2)
        for column, n in enumerate(theta):
            vertex = merged.base[n] + deltas[int(picks[column])][n]
            theta[n] = theta[n] + rate * (vertex - theta[n])
    return theta


@pytest.mark.parametrize("layers", [False, True])
@pytest.mark.parametrize("batch", [12, 5])
def test_the_walk_is_that_of_the_formulas_whatever_the_batch(tmp_path: Path, layers: bool, batch: int) -> None:
    pool = pool_of(3)
    tasks = tasks_of(pool)
    fused = fw_merging(
        pool, tasks, Kept(tmp_path).context(FAMILY), granularity="layer" if layers else "task", iterations=4, step=0.5,
        examples=12, batch=batch,
    )  # fmt: skip
    expected = reference(pool, tasks, layers=layers, iterations=4, start=0.3, step=0.5)
    for name, tensor in expected.items():
        torch.testing.assert_close(fused.weights[name], tensor, atol=1e-5, rtol=1e-5)
    rows = coefficients(tmp_path)
    assert bool((rows.std(dim=1) > 0).any()) is layers


def test_a_walk_from_within_the_hull_stays_there(tmp_path: Path) -> None:
    pool = pool_of(3)
    fw_merging(pool, tasks_of(pool), Kept(tmp_path).context(FAMILY), start=1 / 3, iterations=5, granularity="layer")
    found = coefficients(tmp_path)
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(dim=0), torch.ones(4))


def test_the_curve_has_loss_and_gap(tmp_path: Path) -> None:
    pool = pool_of()
    fw_merging(pool, tasks_of(pool), Kept(tmp_path).context(FAMILY, log_every=1), iterations=3)
    points = [point.metrics for point in read_curve(tmp_path / "training" / "fw_merging")]
    assert len(points) == 3
    assert {"loss", "gap", "min", "mean", "max"} <= points[0].keys()


def test_cosines_are_those_of_gradient_and_whole_weights_and_nothing_has_none() -> None:
    pool = pool_of()
    merged = MergedModule(pool, FAMILY)
    torch.manual_seed(0)
    for name in merged.names[1:]:
        merged.parameters[name].grad = torch.randn(merged.base[name].shape)
    merged.parameters[merged.names[0]].grad = torch.zeros(merged.base[merged.names[0]].shape)
    found = cosines(merged)
    assert found[:, 0].tolist() == [0.0, 0.0]
    for column, name in enumerate(merged.names[1:], start=1):
        for row in range(2):
            expert = merged.base[name].reshape(-1) + merged.deltas[name][row]
            expected = torch.cosine_similarity(expert, merged.parameters[name].grad.reshape(-1), dim=0)
            torch.testing.assert_close(found[row, column], expected, atol=1e-6, rtol=1e-5)


def test_the_oracle_by_cosines_may_pick_another_expert(tmp_path: Path) -> None:
    """Gradient (1, −1): products with (1, 2) and (0, .5) are −1 and −.5, cosines −.316 and −.707."""
    pool = plane_pool((1.0, 2.0), (0.0, 0.5))
    picks = {}
    for oracle in ("product", "cosine"):
        context = Kept(tmp_path / oracle).context(Toy(Plane))
        settings: dict[str, Any] = {"start": 0.0, "iterations": 1, "oracle": oracle}
        picks[oracle] = fw_merging(pool, tasks_of(pool, First, Toy(Plane)), context, **settings).weights["w"].tolist()
    assert picks == {"product": [1.0, 2.0], "cosine": [0.0, 0.5]}


def test_a_mixture_moves_by_its_shares() -> None:
    """Shares softmax(0, log 2, log 1) = (¼ stays, ½, ¼)."""
    at = torch.tensor([[0.4], [0.0]])
    vertices = torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]])
    found, shares = mixture(at, vertices, torch.tensor([[2.0], [1.0]]).log())
    torch.testing.assert_close(shares, torch.tensor([[0.5], [0.25]]))
    torch.testing.assert_close(found, torch.tensor([[0.25 * 0.4 + 0.5], [0.25]]))


@pytest.mark.parametrize("granularity", ["task", "layer"])
def test_the_soft_variant_learns_its_shares_by_the_gradient_of_the_entropy(tmp_path: Path, granularity: Any) -> None:
    """One step of Adam at a tiny rate moves each weight by its rate, against the sign of autograd's gradient."""
    pool = pool_of(2)
    tasks = tasks_of(pool)
    kept = Kept(tmp_path)
    fw_merging(
        pool, tasks, kept.context(FAMILY, checkpoint_every=1), variant="soft", granularity=granularity, iterations=1,
        examples=12, soft_steps=1, learning_rate=1e-3, batch=12, loss="entropy", split="validation",
    )  # fmt: skip
    saved = torch.load(tmp_path / "training" / "fw_merging_0" / "checkpoint.pt", weights_only=True)["tensors"][
        "weights"
    ]
    merged = MergedModule(pool, FAMILY)
    groups = 4 if granularity == "layer" else 1
    at, vertices = torch.full((2, 4), 0.3), []
    for task in tasks.values():
        merged.put(at)
        merged.clear()
        task.objective(
            task.bind(merged.module), next(task.batches("validation", size=12, seed=0, labels=False))
        ).backward()
        scores = merged.gradient(4)
        scores = scores if granularity == "layer" else scores.sum(dim=1, keepdim=True).expand(2, 4)
        vertices.append(torch.zeros(2, 4).scatter_(0, scores.argmin(dim=0, keepdim=True), 1.0))
    unique = vertices if not torch.equal(*vertices) else vertices[:1]
    share = min(1.0, len(unique) / (len(unique) + 1)) / len(unique)
    free = torch.full((len(unique), groups), (share / (1 - share * len(unique)))).log().requires_grad_(True)
    shares = torch.cat([torch.zeros_like(free[:1]), free]).softmax(dim=0)[1:]
    moved = at + sum(s * (v - at) for s, v in zip(shares, unique, strict=True))
    weights = {
        n: merged.base[n] + sum(moved[i, c] * merged.deltas[n][i].view(merged.base[n].shape) for i in range(2))
        for c, n in enumerate(merged.names)
    }
    for task in tasks.values():
        points = next(task.batches("test", size=12, seed=0, labels=False))["points"]
        logs = functional_call(Net(), weights, (points,)).log_softmax(-1)
        (-(logs.exp() * logs).sum(-1).mean()).backward(retain_graph=True)
    torch.testing.assert_close(saved, free.detach() - 1e-3 * free.grad.sign(), atol=1e-5, rtol=0)
    assert kept.used["adapted"] == {"split": "validation, test", "tasks": ("e0", "e1"), "count": 12 + 12}


@pytest.mark.parametrize("variant", ["hard", "soft"])
def test_a_stopped_walk_goes_on_to_the_same_model(tmp_path: Path, variant: Any) -> None:
    pool = pool_of(3)
    settings: dict[str, Any] = {
        "variant": variant, "iterations": 3, "soft_steps": 4, "examples": 8, "batch": 4, "checkpoint_every": 2,
    }  # fmt: skip
    count = 0

    def stop(what: str, done: int, total: int) -> None:
        nonlocal count
        count += 1
        if count == (3 if variant == "hard" else 7):
            raise Stopped

    whole = fw_merging(pool, tasks_of(pool), Kept(tmp_path / "a").context(FAMILY), **settings)
    with pytest.raises(Stopped):
        fw_merging(pool, tasks_of(pool), Kept(tmp_path / "b").context(FAMILY, progress=stop), **settings)
    again = fw_merging(pool, tasks_of(pool), Kept(tmp_path / "b").context(FAMILY), **settings)
    for name, tensor in whole.weights.items():
        assert torch.equal(tensor, again.weights[name])


def test_saved_coefficients_give_the_same_model_without_a_walk(tmp_path: Path) -> None:
    pool = pool_of(3)
    first = fw_merging(pool, tasks_of(pool), Kept(tmp_path / "a").context(FAMILY), iterations=3, granularity="layer")
    kept = Kept(tmp_path / "b")
    again = fw_merging(pool, {}, kept.context(FAMILY), coefficients=str(tmp_path / "a" / "coefficients"))
    for name, tensor in first.weights.items():
        torch.testing.assert_close(again.weights[name], tensor, atol=1e-7, rtol=0)
    assert kept.used == {}
    with pytest.raises(ConfigError, match="2 experts"):
        fw_merging(pool_of(2), {}, kept.context(FAMILY), coefficients=str(tmp_path / "a" / "coefficients"))


def test_what_cannot_be_walked_on_is_refused(tmp_path: Path) -> None:
    pool = pool_of()
    context = Kept(tmp_path).context(FAMILY)
    with pytest.raises(ConfigError, match="labels of the test split"):
        fw_merging(pool, tasks_of(pool), context, split="test")
    with pytest.raises(NotAdaptable, match="no tasks"):
        fw_merging(pool, {}, context)

    class Broken(Labelled):
        def loss(self, predict: Any, batch: Any) -> Tensor:
            return super().loss(predict, batch) * float("inf")

    with pytest.raises(NotFinite, match="task e0 is inf"):
        fw_merging(pool, tasks_of(pool, Broken), context)
