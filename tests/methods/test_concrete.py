"""Concrete subspaces: the worked mask, gradients against autograd through mask and merge, bi-level steps, resume."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call
from toys import Kept, Sides, Toy

from fusionbench.errors import ConfigError, NotAdaptable, NotFinite
from fusionbench.merge import Pool
from fusionbench.methods._concrete_mask import ConcreteMask
from fusionbench.methods._deltas import MergedModule
from fusionbench.methods._inner_step import InnerStep
from fusionbench.methods.adamerging import adamerging
from fusionbench.methods.concrete import concrete_adamerging, concrete_task_arithmetic
from fusionbench.training import State, read_curve
from fusionbench.weights.tensors import TensorSource

CPU = torch.device("cpu")


class Net(nn.Module):
    """Two maps whose matrices are masked; their biases are too small to be."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.last = nn.Linear(width, 4)

    def forward(self, points: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(points)))


def pool_of(experts: int = 2, module: type[nn.Module] = Net) -> Pool:
    torch.manual_seed(0)
    base = module()
    models = {}
    for number in range(experts):
        model = module()
        with torch.no_grad():
            for own, other in zip(model.parameters(), base.parameters(), strict=True):
                own.copy_(other + 0.5 * torch.randn(own.shape))
        models[f"e{number}"] = TensorSource(f"e{number}", model.state_dict(), {"model_type": "toy"})
    source = TensorSource("base", base.state_dict(), {"model_type": "toy"})
    return Pool(source, models, tasks={name: name for name in models})


FAMILY = Toy(Net)


def tasks_of(pool: Pool) -> dict[str, Any]:
    return {name: Sides(name, FAMILY, number) for number, name in enumerate(pool.experts)}


def mask_of(pool: Pool, rescale: Any = "tensor", seed: int = 0) -> tuple[MergedModule, ConcreteMask]:
    merged = MergedModule(pool, FAMILY)
    sizes = {name: merged.base[name].numel() for name in merged.names}
    return merged, ConcreteMask(sizes, temperature=0.5, rescale=rescale, seed=seed, device=CPU)


def entropy(logits: Tensor) -> Tensor:
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1).mean()


def test_the_worked_mask_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """x = 0, T = .5: u = .8 gives m = 16/17 and dm/dx = .110727; (16/17, .5) rescaled is (1.306122, .693878)."""
    drawn = torch.tensor([0.8, 0.5]).repeat(8)
    monkeypatch.setattr(torch, "rand", lambda *_, out, **__: out.copy_(drawn))
    mask = ConcreteMask({"w": 16}, temperature=0.5, rescale="tensor", seed=0, device=CPU)
    part = mask.draw(0)["w"]
    torch.testing.assert_close(part.values[:2], torch.tensor([16 / 17, 0.5]))
    torch.testing.assert_close((part.values / part.mean)[:2], torch.tensor([1.306122, 0.693878]), atol=1e-6, rtol=0)
    # A product that sums to nothing with the mask leaves dm/dx alone: p = (1, −32/17) twice over, divided by μ.
    products = torch.tensor([1.0, -32 / 17]).repeat(8)
    mask.backward({"w": part}, lambda _: products.clone())
    assert mask.logits["w"].grad is not None
    assert mask.logits["w"].grad[0].item() == pytest.approx(0.110727 / part.mean, abs=1e-6)


@pytest.mark.parametrize("rescale", ["tensor", "global"])
@pytest.mark.parametrize("columns", [1, 4])
def test_the_gradients_are_those_of_autograd_through_mask_and_merge(rescale: Any, columns: int) -> None:
    pool = pool_of()
    merged, mask = mask_of(pool, rescale)
    torch.manual_seed(3)
    for logits in mask.logits.values():
        logits.copy_(torch.randn(logits.shape))
    noise = {}
    for name, logits in mask.logits.items():
        values = mask.draw(5)[name].values
        noise[name] = 0.5 * torch.log(values / (1 - values)) - logits
    coefficients, points = torch.rand(2, columns), torch.randn(32, 3)
    task = Sides("e0", FAMILY, 0)

    part = mask.draw(5)
    merged.put(coefficients, part)
    task.objective(task.bind(merged.module), {"points": points}).backward()
    kept = {name: merged.parameters[name].grad.clone() for name in merged.names}
    slopes = merged.gradient(columns, part)
    for name, gradient in kept.items():
        merged.parameters[name].grad = gradient
    at = {name: column for column, name in enumerate(merged.names)}

    def product(name: str) -> Tensor:
        totals = torch.cat([total for _, total in merged.totals(name, coefficients, at[name])])
        return merged.take(name).mul_(totals)

    mask.backward(part, product)

    free = coefficients.clone().requires_grad_(True)
    free_logits = {name: logits.detach().clone().requires_grad_(True) for name, logits in mask.logits.items()}
    drawn = {name: torch.sigmoid((noise[name] + x) / 0.5) for name, x in free_logits.items()}
    over_all = torch.cat(list(drawn.values())).mean()
    weights = {}
    for column, name in enumerate(merged.names):
        shape = merged.base[name].shape
        total = sum(free[i, column if columns > 1 else 0] * merged.deltas[name][i] for i in range(2))
        if name in drawn:
            total = total * drawn[name] / (over_all if rescale == "global" else drawn[name].mean())
        weights[name] = merged.base[name] + total.view(shape)
    entropy(functional_call(Net(), weights, (points,))).backward()
    torch.testing.assert_close(slopes, free.grad, atol=1e-5, rtol=1e-5)
    for name, logits in free_logits.items():
        torch.testing.assert_close(mask.logits[name].grad, logits.grad, atol=1e-5, rtol=1e-5)
        assert float(logits.grad.abs().max()) > 1e-5
        assert merged.parameters[name].grad is None


def test_a_mask_that_is_the_same_everywhere_is_task_arithmetic(tmp_path: Path) -> None:
    pool = pool_of()
    fused = concrete_task_arithmetic(pool, tasks_of(pool), Kept(tmp_path).context(FAMILY), steps=1, learning_rate=1e-12)
    merged = MergedModule(pool, FAMILY)
    for name in merged.names:
        expected = merged.base[name] + 0.3 * merged.deltas[name].sum(dim=0).view(merged.base[name].shape)
        torch.testing.assert_close(fused.weights[name], expected, atol=1e-6, rtol=1e-6)


def test_before_the_first_step_an_even_mask_is_drawn_or_expected(tmp_path: Path) -> None:
    """The tables of steps begin at 0: with the first draw of even odds, near task arithmetic but not equal to it."""
    pool, kept = pool_of(), Kept(tmp_path / "a")
    merged, fresh = mask_of(pool)
    drawn = concrete_task_arithmetic(pool, tasks_of(pool), kept.context(FAMILY), steps=0, mask="sample")
    merged.put(torch.full((2, 1), 0.3), fresh.draw(0))
    for name, tensor in merged.weights().items():
        torch.testing.assert_close(drawn.weights[name], tensor, atol=1e-6, rtol=1e-6)
    assert "adapted" not in kept.used
    expected = concrete_task_arithmetic(
        pool, tasks_of(pool), Kept(tmp_path / "b").context(FAMILY), steps=0, mask="mean"
    )
    for name in merged.names:
        plain = merged.base[name] + 0.3 * merged.deltas[name].sum(dim=0).view(merged.base[name].shape)
        torch.testing.assert_close(expected.weights[name], plain, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(drawn.weights["first.weight"], expected.weights["first.weight"], atol=1e-3)


def test_before_the_second_phase_the_learned_mask_meets_the_first_coefficients(tmp_path: Path) -> None:
    pool, kept = pool_of(), Kept(tmp_path / "a")
    whole = concrete_adamerging(
        pool, tasks_of(pool), kept.context(FAMILY), mask_steps=3, steps=0, batch=4, mask="mean", learning_rate=0.1
    )
    assert kept.used["adapted"]["count"] == 2 * 3 * 4
    again = concrete_task_arithmetic(
        pool, tasks_of(pool), Kept(tmp_path / "b").context(FAMILY), scale=0.3, mask="mean",
        logits=str(tmp_path / "a" / "mask"),
    )  # fmt: skip
    for name, tensor in whole.weights.items():
        torch.testing.assert_close(tensor, again.weights[name], atol=1e-6, rtol=1e-6)


def test_tensors_of_few_entries_are_left_whole() -> None:
    merged, mask = mask_of(pool_of())
    assert set(merged.names) - set(mask.logits) == {"first.bias", "last.bias"}
    with pytest.raises(ConfigError, match="nothing to mask"):
        ConcreteMask({"w": 15}, temperature=0.5, rescale="tensor", seed=0, device=CPU)


def test_a_mask_that_is_almost_empty_leaves_its_tensor_whole() -> None:
    mask = ConcreteMask({"a": 16, "b": 16}, temperature=0.5, rescale="tensor", seed=0, device=CPU)
    mask.logits["a"].fill_(-20.0)
    assert list(mask.draw(0)) == ["b"]
    assert mask.settled("binary", 0) == {}


def test_settled_masks_are_the_expected_one_a_draw_and_a_binary_one() -> None:
    _, mask = mask_of(pool_of())
    logits = mask.logits["first.weight"]
    logits.copy_(torch.linspace(-2, 2, 18))
    expected = mask.settled("mean", 7)["first.weight"]
    torch.testing.assert_close(expected.values, torch.sigmoid(torch.linspace(-2, 2, 18)))
    assert expected.mean == pytest.approx(0.5, abs=1e-6)
    assert mask.settled("binary", 7)["first.weight"].values.tolist() == [0.0] * 9 + [1.0] * 9
    sample = mask.settled("sample", 7)["first.weight"].values.clone()
    assert torch.equal(sample, mask.draw(7)["first.weight"].values)
    assert not torch.equal(sample, mask.draw(8)["first.weight"].values)


def test_draws_have_the_chances_of_their_logits() -> None:
    """P(m > ½) = σ(x), whatever the temperature."""
    mask = ConcreteMask({"w": 200_000}, temperature=0.5, rescale="tensor", seed=1, device=CPU)
    mask.logits["w"].fill_(1.0)
    share = float((mask.draw(0)["w"].values > 0.5).float().mean())
    assert share == pytest.approx(1 / (1 + math.exp(-1)), abs=0.004)


def test_global_rescaling_divides_by_the_mean_over_all_entries() -> None:
    mask = ConcreteMask({"a": 16, "b": 48}, temperature=0.5, rescale="global", seed=0, device=CPU)
    mask.logits["a"].fill_(math.log(3))
    found = mask.settled("mean", 0)
    assert found["a"].mean == found["b"].mean == pytest.approx((16 * 0.75 + 48 * 0.5) / 64)


def test_the_mask_makes_the_model_surer_and_changes_no_input(tmp_path: Path) -> None:
    pool = pool_of()
    before = {name: source.fingerprint() for name, source in {"base": pool.base, **pool.experts}.items()}
    kept = Kept(tmp_path)
    concrete_task_arithmetic(
        pool, tasks_of(pool), kept.context(FAMILY, log_every=1), steps=60, learning_rate=0.1, batch=16
    )
    curve = [point.metrics for point in read_curve(tmp_path / "training" / "concrete")]
    assert sum(p["loss"] for p in curve[-10:]) < 0.97 * sum(p["loss"] for p in curve[:10])
    assert 0 < curve[-1]["kept"] < 1
    assert before == {name: source.fingerprint() for name, source in {"base": pool.base, **pool.experts}.items()}
    assert kept.used["adapted"] == {"split": "test", "tasks": ("e0", "e1"), "count": 60 * 16}


def test_each_step_has_a_draw_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, draw = [], ConcreteMask.draw
    monkeypatch.setattr(ConcreteMask, "draw", lambda self, number: numbers.append(number) or draw(self, number))
    pool = pool_of()
    concrete_task_arithmetic(pool, tasks_of(pool), Kept(tmp_path).context(FAMILY), steps=3, batch=4, mask="sample")
    assert numbers == [0, 1, 2, 3]


def test_the_inner_step_always_leaves_from_the_start() -> None:
    start, state = torch.tensor([[0.3], [0.6]]), State(0, None)
    asked = []

    def slope(at: Tensor) -> Tensor:
        asked.append(at.clone())
        return torch.tensor([[0.2], [-1.0]])

    rule = InnerStep(start, "sgd", 0.5, "fresh", clamp=True)
    for _ in range(2):
        torch.testing.assert_close(rule(state, slope), torch.tensor([[0.2], [1.0]]))
    assert all(torch.equal(at, start) for at in asked)
    assert state.extra == {}


def test_adams_first_inner_step_moves_each_coefficient_by_its_rate_and_is_clamped() -> None:
    start, state = torch.tensor([[0.3], [0.3]]), State(0, None)
    gradient = torch.tensor([[1e-3], [-5.0]])
    free = InnerStep(start, "adam", 1.0, "fresh", clamp=False)(state, lambda _: gradient)
    torch.testing.assert_close(free, torch.tensor([[-0.7], [1.3]]), atol=1e-4, rtol=0)
    held = InnerStep(start, "adam", 1.0, "fresh", clamp=True)(State(0, None), lambda _: gradient)
    torch.testing.assert_close(held, torch.tensor([[0.0], [1.0]]), atol=1e-4, rtol=0)


def test_adams_moments_last_while_the_coefficients_do_not() -> None:
    """Against torch's Adam on a parameter that is put back to its start before each step."""
    start = torch.tensor([[0.3, 0.3]])
    free = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([free], lr=0.1)
    rule, state = InnerStep(start, "adam", 0.1, "fresh", clamp=False), State(0, None)
    for number in range(4):
        gradient = torch.tensor([[1.0 - number, 0.2]])
        with torch.no_grad():
            free.copy_(start)
        free.grad = gradient.clone()
        adam.step()
        state.done = number
        torch.testing.assert_close(rule(state, lambda _, g=gradient: g), free.detach(), atol=1e-6, rtol=1e-6)


def test_a_stale_step_takes_its_gradient_where_the_last_one_ended_and_none_outside_the_bounds() -> None:
    start, state = torch.tensor([[0.3]]), State(0, None)
    asked = []

    def slope(at: Tensor) -> Tensor:
        asked.append(at.item())
        return torch.tensor([[-1.0]])

    rule = InnerStep(start, "sgd", 1.0, "stale", clamp=True)
    assert rule(state, slope).item() == pytest.approx(1.0)
    # λ' = 1.3 is used as 1, where a clamped coefficient has no gradient: the second step stays at the start.
    assert rule(state, slope).item() == pytest.approx(0.3)
    assert asked == pytest.approx([0.3, 1.0])


@pytest.mark.parametrize("granularity", ["task", "layer"])
def test_concrete_adamerging_learns_a_mask_and_then_coefficients(tmp_path: Path, granularity: Any) -> None:
    pool, kept = pool_of(), Kept(tmp_path)
    fused = concrete_adamerging(
        pool, tasks_of(pool), kept.context(FAMILY, log_every=1), granularity=granularity, mask_steps=5, steps=6,
        learning_rate=0.05, batch=8,
    )  # fmt: skip
    groups = 4 if granularity == "layer" else 1
    used = load_file(tmp_path / "coefficients" / "model.safetensors")["coefficients"]
    logits = load_file(tmp_path / "mask" / "model.safetensors")
    assert used.shape == (2, groups)
    assert {name: tuple(x.shape) for name, x in logits.items()} == {"first.weight": (6, 3), "last.weight": (4, 6)}
    assert kept.used["adapted"]["count"] == 2 * 5 * 8 + 6 * 8
    for column, name in enumerate(MergedModule(pool, FAMILY).names):
        base, deltas = MergedModule(pool, FAMILY).base[name], MergedModule(pool, FAMILY).deltas[name]
        total = sum(used[i, column if groups > 1 else 0] * deltas[i] for i in range(2)).view(base.shape)
        if name in logits:
            total = total * logits[name].sigmoid() / logits[name].sigmoid().mean()
        torch.testing.assert_close(fused.weights[name], base + total, atol=1e-6, rtol=1e-6)
    assert len(read_curve(tmp_path / "training" / "concrete")) == 5
    assert len(read_curve(tmp_path / "training" / "adamerging")) == 6


def test_with_an_even_mask_the_second_phase_is_adamerging(tmp_path: Path) -> None:
    pool = pool_of()
    _, even = mask_of(pool)
    names = {"first.weight": (6, 3), "last.weight": (4, 6)}
    (tmp_path / "even").mkdir()
    save_file(
        {name: even.logits[name].view(shape).contiguous() for name, shape in names.items()},
        tmp_path / "even" / "model.safetensors", metadata={"experts": "e0\ne1"},
    )  # fmt: skip
    settings: dict[str, Any] = {"steps": 8, "learning_rate": 0.05, "batch": 8}
    masked = concrete_adamerging(
        pool, tasks_of(pool), Kept(tmp_path / "a").context(FAMILY), logits=str(tmp_path / "even"), **settings
    )
    plain = adamerging(pool, tasks_of(pool), Kept(tmp_path / "b").context(FAMILY), batches=1, **settings)
    for name, tensor in plain.weights.items():
        torch.testing.assert_close(masked.weights[name], tensor, atol=1e-6, rtol=1e-6)


def test_the_second_phase_is_adam_on_the_masked_merge(tmp_path: Path) -> None:
    """Against torch alone: three steps through mask, merge and model."""
    pool = pool_of()
    tasks, (merged, mask) = tasks_of(pool), mask_of(pool)
    torch.manual_seed(2)
    names = {"first.weight": (6, 3), "last.weight": (4, 6)}
    logits = {name: 3 * torch.randn(shape) for name, shape in names.items()}
    (tmp_path / "mask").mkdir()
    save_file(logits, tmp_path / "mask" / "model.safetensors", metadata={"experts": "e0\ne1"})
    settings: dict[str, Any] = {"steps": 3, "learning_rate": 0.05, "batch": 8, "clamp": False}
    saved = Kept(tmp_path / "run")
    concrete_adamerging(pool, tasks, saved.context(FAMILY), logits=str(tmp_path / "mask"), **settings)
    factors = {name: x.sigmoid() / x.sigmoid().mean() for name, x in logits.items()}
    free = torch.full((2, 4), 0.3, requires_grad=True)
    adam = torch.optim.Adam([free], lr=0.05)
    drawn = {name: task.batches("test", size=8, seed=0, labels=False) for name, task in tasks.items()}
    for _ in range(3):
        weights = {}
        for column, name in enumerate(merged.names):
            shape = merged.base[name].shape
            total = sum(free[i, column] * merged.deltas[name][i] for i in range(2)).view(shape)
            weights[name] = merged.base[name] + total * factors.get(name, 1.0)
        adam.zero_grad()
        sum(entropy(functional_call(Net(), weights, (next(of)["points"],))) for of in drawn.values()).backward()
        adam.step()
    found = load_file(tmp_path / "run" / "coefficients" / "model.safetensors")["coefficients"]
    torch.testing.assert_close(found, free.detach(), atol=1e-5, rtol=0)
    assert mask.logits.keys() == factors.keys()


CALLS: Mapping[str, Any] = {
    "task arithmetic": lambda *given, **changes: concrete_task_arithmetic(
        *given, **({"steps": 12, "learning_rate": 0.05, "checkpoint_every": 4, "batch": 4} | changes)
    ),
    "adamerging": lambda *given, **changes: concrete_adamerging(
        *given, **({"mask_steps": 8, "steps": 6, "learning_rate": 0.05, "checkpoint_every": 4, "batch": 4} | changes)
    ),
    "official": lambda *given, **changes: concrete_adamerging(
        *given, **({"mask_steps": 8, "steps": 6, "learning_rate": 0.05, "checkpoint_every": 4, "batch": 4,
                    "inner": "adam", "merge_point": "stale", "mask": "sample"} | changes)
    ),
}  # fmt: skip


class Stopped(Exception):
    pass


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("at", [6, 11])
def test_a_stopped_run_goes_on_to_the_same_mask_and_model(tmp_path: Path, call: str, at: int) -> None:
    pool = pool_of()
    whole = CALLS[call](pool, tasks_of(pool), Kept(tmp_path / "a").context(FAMILY))
    count = 0

    def stop(what: str, done: int, total: int) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise Stopped

    with pytest.raises(Stopped):
        CALLS[call](pool, tasks_of(pool), Kept(tmp_path / "b").context(FAMILY, progress=stop))
    resumed = CALLS[call](pool, tasks_of(pool), Kept(tmp_path / "b").context(FAMILY))
    masks = [load_file(tmp_path / folder / "mask" / "model.safetensors") for folder in "ab"]
    for name, tensor in whole.weights.items():
        assert torch.equal(tensor, resumed.weights[name])
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


@pytest.mark.parametrize("call", CALLS)
def test_saved_masks_and_coefficients_give_the_same_model_without_a_look_at_data(tmp_path: Path, call: str) -> None:
    pool = pool_of()
    first = CALLS[call](pool, tasks_of(pool), Kept(tmp_path / "a").context(FAMILY))
    saved = {"logits": str(tmp_path / "a" / "mask")}
    if call != "task arithmetic":
        saved["coefficients"] = str(tmp_path / "a" / "coefficients")
    kept = Kept(tmp_path / "b")
    again = CALLS[call](pool, {}, kept.context(FAMILY), **saved)
    for name, tensor in first.weights.items():
        torch.testing.assert_close(again.weights[name], tensor, atol=1e-7, rtol=0)
    assert kept.used == {}


def test_a_mask_or_coefficients_of_other_models_are_refused(tmp_path: Path) -> None:
    pool = pool_of()
    context = Kept(tmp_path / "a").context(FAMILY)
    CALLS["adamerging"](pool, tasks_of(pool), context)
    mask, coefficients = str(tmp_path / "a" / "mask"), str(tmp_path / "a" / "coefficients")
    other = Kept(tmp_path / "b").context(FAMILY)
    with pytest.raises(ConfigError, match=r"experts e0, e1, here they are e0, e1, e2.*method\.logits out"):
        concrete_task_arithmetic(pool_of(3), {}, other, logits=mask)
    with pytest.raises(ConfigError, match="1 groups"):
        concrete_adamerging(pool, tasks_of(pool), other, coefficients=coefficients, granularity="task")

    class Wide(Net):
        def __init__(self) -> None:
            super().__init__(width=8)

    with pytest.raises(ConfigError, match=r"first\.weight is \(6, 3\), here \(8, 3\)"):
        concrete_task_arithmetic(pool_of(2, Wide), {}, Kept(tmp_path / "c").context(Toy(Wide)), logits=mask)


def test_what_cannot_be_adapted_and_losses_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    pool = pool_of()
    context = Kept(tmp_path).context(FAMILY)
    with pytest.raises(NotAdaptable, match="no distribution"):
        concrete_task_arithmetic(pool, {"e0": Sides("e0", FAMILY, 0, adaptable=False)}, context)
    with pytest.raises(NotAdaptable, match="no tasks"):
        concrete_adamerging(pool, {}, context)

    class Broken(Sides):
        def objective(self, predict: Any, batch: Any) -> Tensor:
            return super().objective(predict, batch) * float("nan")

    for method in (concrete_task_arithmetic, concrete_adamerging, adamerging):
        with pytest.raises(NotFinite, match=r"on the task e0 is nan.*Check the experts"):
            method(pool, {"e0": Broken("e0", FAMILY, 0)}, context)


@pytest.mark.parametrize("storage", ["bfloat16", "disk"])
def test_where_the_deltas_lie_does_not_matter_to_the_last_merge(tmp_path: Path, storage: Any) -> None:
    pool = pool_of()
    saved: dict[str, Any] = {}
    fused = {}
    for deltas in ("memory", storage):
        folder = tmp_path / deltas
        fused[deltas] = CALLS["adamerging"](pool, tasks_of(pool), Kept(folder).context(FAMILY), deltas=deltas, **saved)
        saved = {"logits": str(tmp_path / "memory" / "mask"), "coefficients": str(tmp_path / "memory" / "coefficients")}
    for name, tensor in fused["memory"].weights.items():
        torch.testing.assert_close(fused[storage].weights[name], tensor, atol=1e-6, rtol=1e-6)


def test_scores_on_the_way_are_in_the_curves_of_both_phases(tmp_path: Path) -> None:
    pool = pool_of()
    seen: list[Any] = []

    def evaluate(fused: Any) -> dict[str, float]:
        seen.append(fused.weights["first.weight"].clone())
        return {"e0": 0.25, "e1": 0.75}

    context = Kept(tmp_path).context(FAMILY, evaluate)
    CALLS["adamerging"](pool, tasks_of(pool), context, evaluate_every=4)
    for phase, points in (("concrete", 2), ("adamerging", 2)):
        curve = [p for p in read_curve(tmp_path / "training" / phase) if "validation" in p.metrics]
        assert [p.metrics["validation"] for p in curve] == [0.5] * points
    assert len(seen) == 4


def test_a_collapse_is_reported(tmp_path: Path) -> None:
    class Sure(Net):
        def forward(self, points: Tensor) -> Tensor:
            return super().forward(points) + torch.tensor([50.0, 0, 0, 0])

    family, kept, pool = Toy(Sure), Kept(tmp_path), pool_of(2, Sure)
    concrete_task_arithmetic(pool, {"e0": Sides("e0", family, 0)}, kept.context(family), steps=1)
    assert any("one class" in note for note in kept.notes)
