"""AdaMerging: its worked numbers, its gradient against autograd, what it leaves and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from toys import Kept, Sides, Toy

from fusionbench.errors import ConfigError, NotAdaptable
from fusionbench.merge import Pool
from fusionbench.methods._deltas import MergedModule
from fusionbench.methods._survivors import keep_survivors
from fusionbench.methods.adamerging import adamerging
from fusionbench.training import read_curve
from fusionbench.weights.tensors import TensorSource


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.last = nn.Linear(width, width)

    def forward(self, points: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(points)))


class Gain(nn.Module):
    """Logits (w, 0) for any input."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, points: Tensor) -> Tensor:
        return torch.stack([self.w, torch.zeros(())]).expand(len(points), 2)


def pool_of(module: type[nn.Module], experts: int = 2) -> Pool:
    torch.manual_seed(0)
    base = module()
    models = {}
    for number in range(experts):
        model = module()
        with torch.no_grad():
            for own, other in zip(model.parameters(), base.parameters(), strict=True):
                own.copy_(other + 0.3 * torch.randn(own.shape))
        models[f"e{number}"] = TensorSource(f"e{number}", model.state_dict(), {"model_type": "toy"})
    source = TensorSource("base", base.state_dict(), {"model_type": "toy"})
    return Pool(source, models, tasks={name: name for name in models})


def gain_pool() -> Pool:
    base = TensorSource("base", {"w": torch.tensor(0.0)}, {"model_type": "toy"})
    expert = TensorSource("e", {"w": torch.tensor(2.0)}, {"model_type": "toy"})
    return Pool(base, {"e": expert}, tasks={"e": "e"})


def test_the_worked_example_by_hand(tmp_path: Path) -> None:
    """Logits (2λ, 0) at λ = .3: entropy .650094, slope −.274541; Adam's first step goes up by its rate to .301."""
    family = Toy(Gain)
    kept = Kept(tmp_path)
    fused = adamerging(
        gain_pool(), {"e": Sides("e", family, 1)}, kept.context(family, log_every=1), steps=1, batch=4, batches=1
    )
    assert fused.weights["w"].item() == pytest.approx(2 * 0.301, abs=1e-6)
    assert read_curve(tmp_path / "training" / "adamerging")[0].metrics["loss"] == pytest.approx(0.650094, abs=1e-6)
    merged = MergedModule(gain_pool(), family)
    merged.put(torch.full((1, 1), 0.3))
    Sides("e", family, 1).objective(Sides("e", family, 1).bind(merged.module), {"points": torch.zeros(4, 3)}).backward()
    assert merged.gradient(1).item() == pytest.approx(-0.274541, abs=1e-6)
    assert kept.used["adapted"] == {"split": "test", "tasks": ("e",), "count": 4}


@pytest.mark.parametrize("layers", [True, False])
@pytest.mark.parametrize(("storage", "close"), [("memory", 1e-5), ("disk", 1e-5), ("bfloat16", 2e-2)])
def test_the_gradient_is_that_of_autograd_through_the_merge(layers: bool, storage: Any, close: float) -> None:
    family, pool = Toy(Net), pool_of(Net)
    merged = MergedModule(pool, family, storage=storage)
    shape = (2, len(merged.names) if layers else 1)
    torch.manual_seed(1)
    coefficients = torch.rand(shape)
    points = torch.randn(16, 3)
    task = Sides("e0", family, 0)
    merged.put(coefficients)
    task.objective(task.bind(merged.module), {"points": points}).backward()

    free = coefficients.clone().requires_grad_(True)
    weights = {
        name: merged.base[name]
        + sum(
            free[i, c if layers else 0] * merged.deltas[name][i].float().view(merged.base[name].shape) for i in range(2)
        )
        for c, name in enumerate(merged.names)
    }
    logs = functional_call(Net(), weights, (points,)).log_softmax(-1)
    (-(logs.exp() * logs).sum(-1).mean()).backward()
    torch.testing.assert_close(merged.gradient(shape[1]), free.grad, atol=close, rtol=close)


def test_adaptation_lowers_the_entropy_and_changes_no_input(tmp_path: Path) -> None:
    family, pool = Toy(Net), pool_of(Net)
    before = {name: source.fingerprint() for name, source in {"base": pool.base, **pool.experts}.items()}
    tasks = {name: Sides(name, family, i) for i, name in enumerate(pool.experts)}
    adamerging(pool, tasks, Kept(tmp_path).context(family, log_every=1), steps=60, learning_rate=0.02, clamp=False)
    losses = [point.metrics["loss"] for point in read_curve(tmp_path / "training" / "adamerging")]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert before == {name: source.fingerprint() for name, source in {"base": pool.base, **pool.experts}.items()}


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": 1, "learning_rate": 1e-12}])
def test_without_a_step_or_with_a_rate_of_nothing_it_is_task_arithmetic(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    family, pool = Toy(Net), pool_of(Net)
    tasks = {name: Sides(name, family, i) for i, name in enumerate(pool.experts)}
    kept = Kept(tmp_path)
    fused = adamerging(pool, tasks, kept.context(family), **settings)
    # What was not looked at is not said to have been.
    assert ("adapted" in kept.used) == (settings["steps"] > 0)
    base = dict(Net().state_dict())
    for name in base:
        tensors = [MergedModule(pool, family).base[name], *MergedModule(pool, family).deltas[name]]
        expected = tensors[0] + 0.3 * sum(delta.view(tensors[0].shape) for delta in tensors[1:])
        torch.testing.assert_close(fused.weights[name], expected, atol=1e-6, rtol=1e-6)


def test_saved_coefficients_give_the_same_model_without_adaptation(tmp_path: Path) -> None:
    family, pool = Toy(Net), pool_of(Net)
    tasks = {name: Sides(name, family, i) for i, name in enumerate(pool.experts)}
    first = adamerging(pool, tasks, Kept(tmp_path / "a").context(family), steps=5)
    saved = str(tmp_path / "a" / "coefficients")
    again = adamerging(pool, {}, Kept(tmp_path / "b").context(family), coefficients=saved)
    for name, tensor in first.weights.items():
        assert torch.equal(tensor, again.weights[name])
    with pytest.raises(ConfigError, match="coefficients"):
        adamerging(pool_of(Net, 3), {}, Kept(tmp_path / "c").context(family), coefficients=saved)
    with pytest.raises(ConfigError, match="1 groups"):
        adamerging(pool, {}, Kept(tmp_path / "d").context(family), coefficients=saved, granularity="task")


def test_a_stopped_adaptation_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family, pool = Toy(Net), pool_of(Net)
    tasks = {name: Sides(name, family, i) for i, name in enumerate(pool.experts)}
    whole = adamerging(pool, tasks, Kept(tmp_path / "a").context(family), steps=12, checkpoint_every=4)

    class Stopped(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if done == 7:
            raise Stopped

    with pytest.raises(Stopped):
        adamerging(pool, tasks, Kept(tmp_path / "b").context(family, progress=stop), steps=12, checkpoint_every=4)
    resumed = adamerging(pool, tasks, Kept(tmp_path / "b").context(family), steps=12, checkpoint_every=4)
    for name, tensor in whole.weights.items():
        assert torch.equal(tensor, resumed.weights[name])


def test_clamped_coefficients_stay_in_the_unit_interval(tmp_path: Path) -> None:
    family, pool = Toy(Net), pool_of(Net)
    tasks = {name: Sides(name, family, i) for i, name in enumerate(pool.experts)}
    from safetensors.torch import load_file

    for clamp in (True, False):
        kept = Kept(tmp_path / str(clamp))
        adamerging(pool, tasks, kept.context(family), steps=40, learning_rate=0.1, clamp=clamp)
        found = load_file(tmp_path / str(clamp) / "coefficients" / "model.safetensors")["coefficients"]
        assert found.shape == (2, 4)
        assert bool(((found >= 0) & (found <= 1)).all()) is clamp


def test_plus_plus_keeps_what_ties_keeps(tmp_path: Path) -> None:
    """V5 of the specification: trimmed to two entries each, and all of them survive the election."""
    base = torch.tensor([1.0, 2, 3, 4, 5])
    first, second = torch.tensor([0.5, -0.4, 0.1, 0, 0.3]), torch.tensor([-0.2, -0.6, 0.3, 0.1, -0.9])

    class Vector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(5))

    sources = {n: TensorSource(n, {"w": base + d}, {"model_type": "toy"}) for n, d in (("a", first), ("b", second))}
    pool = Pool(TensorSource("base", {"w": base}, {"model_type": "toy"}), sources)
    merged = MergedModule(pool, Toy(Vector))
    keep_survivors(merged, 0.4)
    expected = torch.tensor([[0.5, -0.4, 0, 0, 0], [0, -0.6, 0, 0, -0.9]])
    torch.testing.assert_close(merged.deltas["w"], expected, atol=1e-6, rtol=0)


def test_what_cannot_be_adapted_is_refused_at_once(tmp_path: Path) -> None:
    family, pool = Toy(Net), pool_of(Net)
    with pytest.raises(NotAdaptable, match="no distribution"):
        adamerging(pool, {"e0": Sides("e0", family, 0, adaptable=False)}, Kept(tmp_path).context(family))
    with pytest.raises(NotAdaptable, match="no tasks"):
        adamerging(pool, {}, Kept(tmp_path).context(family))


def test_a_collapse_is_reported(tmp_path: Path) -> None:
    family = Toy(Gain)
    kept = Kept(tmp_path)
    adamerging(gain_pool(), {"e": Sides("e", family, 1)}, kept.context(family), steps=1)
    assert kept.notes == ["e: 100% of the predictions are one class; as 100% were at the start"]


def test_a_collapse_is_told_from_a_model_that_was_so_before(tmp_path: Path) -> None:
    """Logits (λ·x, 0): half of the predictions at λ = .3 are of either class; λ goes up, the bias with it."""

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self, points: Tensor) -> Tensor:
            up = points[:, 0] + 0.5 + 400 * (self.w - 0.3).clamp_min(0.0)
            return torch.stack([up, torch.zeros(len(up))], dim=1)

    family, kept = Toy(Line), Kept(tmp_path)
    base = TensorSource("base", {"w": torch.tensor(0.0)}, {"model_type": "toy"})
    pool = Pool(base, {"e": TensorSource("e", {"w": torch.tensor(1.0)}, {"model_type": "toy"})}, tasks={"e": "e"})
    adamerging(pool, {"e": Sides("e", family, 1)}, kept.context(family), steps=20, learning_rate=0.01)
    assert kept.notes == ["e: 100% of the predictions are one class; the entropy has collapsed"]
