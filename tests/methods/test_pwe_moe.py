"""PWE-MoE: at first it is task arithmetic, gates alone learn, and every preference has a plain model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from routing import BlockFamily, Blocks, called, known, pool_of
from torch import Tensor
from torch.func import functional_call
from toys import Kept, Toy

from fusionbench.errors import ConfigError, MissingData, MissingPart, NotFinite
from fusionbench.merge import Pool
from fusionbench.methods._pareto import exact_pareto_weights
from fusionbench.methods._preference import EQUAL, GateTraining, preferred_module
from fusionbench.methods._routing import routers_of
from fusionbench.methods.pwe_moe import pwe_moe
from fusionbench.mixing import mixed
from fusionbench.mixing.mixed import open_mixed
from fusionbench.mixing.preferred import merged_for, prefer, preferred_parts
from fusionbench.mixing.sites import ModuleSite, mlp_and_attention_sites
from fusionbench.training.checkpoint import read_curve
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import TensorSource

FAMILY = BlockFamily()


@dataclass
class Wanted:
    """A task whose points all belong to one class, so that two of them pull apart."""

    name: str
    seed: int
    family: Any = field(default_factory=lambda: FAMILY)
    version: int = 1
    metrics: tuple[Any, ...] = ()
    broken: bool = False
    splits: tuple[str, ...] = ("train", "validation", "test")

    def size(self, split: str) -> int:
        if split not in self.splits:
            raise MissingData(f"{self.name} has no split {split}")
        return 100

    def batches(
        self, split: str, *, size: int, seed: int, start: int = 0, labels: bool = True
    ) -> Iterator[dict[str, Any]]:
        assert split == "train"
        step = start // size
        while True:
            generator = torch.Generator().manual_seed(1000 * self.seed + step)
            labels = torch.full((size,), self.seed % 2)
            yield {"points": torch.randn(size, 3, generator=generator), "labels": labels}
            step += 1

    def bind(self, backbone: Any) -> Any:
        return lambda batch: self.family.features(backbone, batch)

    def loss(self, predict: Any, batch: dict[str, Any]) -> Tensor:
        found = torch.nn.functional.cross_entropy(predict(batch), batch["labels"])
        return found * float("nan") if self.broken else found


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, FAMILY)
    monkeypatch.setattr(mixed, "family_named", lambda name: FAMILY)


def tasks_of(pool: Any) -> dict[str, Any]:
    return {name: Wanted(name, number) for number, name in enumerate(pool.experts)}


def build(folder: Path, pool: Any = None, tasks: Any = None, **values: Any) -> Any:
    pool = pool or pool_of()
    kept = Kept(folder)
    own = tasks_of(pool) if tasks is None else tasks
    return called(pwe_moe, pool, own, kept.context(FAMILY, log_every=1), **values)


def torn_pool() -> Any:
    """Two experts that differ from the base by what pushes an answer to the one class, and to the other."""
    pool = pool_of()
    for name, sign in (("e0", -1), ("e1", 1)):
        state = {key: tensor.clone() for key, tensor in pool.base._tensors.items()}
        state["blocks.1.mlp.down.bias"] += sign * (state["head.weight"][1] - state["head.weight"][0])
        pool.experts[name] = TensorSource(name, state, pool.base.config)
    return pool


def answers(model: Any, points: Tensor) -> Tensor:
    with torch.no_grad():
        return model.module(points)


def arithmetic(pool: Any, factors: list[float], inside: list[float] | None = None) -> dict[str, Tensor]:
    """θ₀ + Σ factorᵢ·τᵢ, with other factors inside the MLPs."""
    states = [source._tensors for source in (pool.base, *pool.experts.values())]
    made = {}
    for name, base in states[0].items():
        chosen = inside if inside is not None and ".mlp." in name else factors
        made[name] = base + sum(f * (s[name] - base) for f, s in zip(chosen, states[1:], strict=True))
    return made


def test_the_worked_example_by_hand() -> None:
    """φ₀ = 1, Δ = (1, 2), bias .3: 1.9 for every preference; with W = I and r = (.25, .75) w = (.55, 1.05): 3.65."""
    site = ModuleSite("mlp", {"up.weight": "w"}, {"up": True}, experts=("a", "b"))
    tensors = [{"up.weight": torch.tensor([[value]])} for value in (1.0, 2.0, 3.0)]
    made = preferred_module(site, tensors[0], tensors[1:], depth=1, init=0.3).tensors
    for gate, expected in ((torch.zeros(2, 2), 1.9), (torch.eye(2), 3.65)):
        weights = gate @ torch.tensor([0.25, 0.75]) + made["router.layers.0.bias"]
        merged = made["inner.up.weight"] + torch.tensordot(weights, made["inner.up.delta"], dims=1)
        assert merged.item() == pytest.approx(expected)


@pytest.mark.parametrize(("depth", "gate"), [(1, 72), (2, 280)])
def test_a_gate_of_eight_experts_has_as_many_parameters_as_the_paper_says(depth: int, gate: int) -> None:
    from fusionbench.mixing.routed import Router

    assert sum(p.numel() for p in Router(8, 8, depth, hidden=16).parameters()) == gate


@pytest.mark.parametrize("depth", [1, 2])
def test_parameters_are_those_of_the_formula(tmp_path: Path, depth: int) -> None:
    """The base, T more of each weighed module, and a gate a module."""
    mlp, outside = 3 * 5 + 5 + 5 * 3 + 3, 2 * 6 + 3 * 2 + 2
    gate = {1: 2 * 2 + 2, 2: 2 * 4 + 4 + 4 * 2 + 2}[depth]
    found = build(tmp_path, steps=0, depth=depth)
    assert found.parameters == outside + 2 * (3 * mlp + gate)
    assert found.models[EQUAL].trainable == 2 * gate


@pytest.mark.parametrize(("preference", "init"), [([0.5, 0.5], 0.3), ([1, 0], 0.3), ([0.2, 0.8], 0.5)])
def test_with_silent_gates_every_preference_is_task_arithmetic(
    tmp_path: Path, preference: list[float], init: float
) -> None:
    pool, points = pool_of(), torch.randn(7, 3)
    model = build(tmp_path, pool, steps=0, init=init).models[EQUAL]
    for name, parameter in routers_of(model).items():
        if name.endswith("weight"):
            parameter.data.zero_()
    prefer(model.module, preference)
    expected = functional_call(Blocks(), arithmetic(pool, [init, init]), (points,))
    torch.testing.assert_close(answers(model, points), expected, atol=1e-5, rtol=1e-5)


def test_a_gate_that_hands_the_preference_on_weighs_the_mlps_by_it(tmp_path: Path) -> None:
    pool, points = pool_of(), torch.randn(7, 3)
    model = build(tmp_path, pool, steps=0, depth=1).models[EQUAL]
    for name, parameter in routers_of(model).items():
        parameter.data = torch.eye(2) if name.endswith("weight") else torch.zeros(2)
    prefer(model.module, [0.2, 0.8])
    expected = functional_call(Blocks(), arithmetic(pool, [0.3, 0.3], [0.2, 0.8]), (points,))
    torch.testing.assert_close(answers(model, points), expected, atol=1e-5, rtol=1e-5)
    prefer(model.module, None)
    expected = functional_call(Blocks(), arithmetic(pool, [0.3, 0.3], [0.5, 0.5]), (points,))
    torch.testing.assert_close(answers(model, points), expected, atol=1e-5, rtol=1e-5)


def test_a_preference_merges_to_a_plain_model_of_the_same_answers(tmp_path: Path) -> None:
    pool, points = pool_of(), torch.randn(7, 3)
    front = build(tmp_path / "a", pool, steps=6, grid=3)
    gates = str(tmp_path / "a" / "gates")
    mixture = front.models[EQUAL]
    assert list(front.models) == [EQUAL, "0,1", "0.5,0.5", "1,0"]
    for label, preference in (("0,1", [0, 1]), ("0.5,0.5", [0.5, 0.5]), ("1,0", [1, 0])):
        plain = build(tmp_path / "b", pool, tasks={}, gates=gates, preference=preference)
        assert plain.kind == "weights"
        prefer(mixture.module, preference)
        torch.testing.assert_close(answers(plain, points), answers(mixture, points), atol=1e-6, rtol=1e-6)
        assert torch.equal(answers(plain, points), answers(front.models[label], points))
    assert plain.parameters == sum(spec.size for spec in pool.base.specs.values())


def test_equal_weights_are_the_mixtures_own(tmp_path: Path) -> None:
    front, points = build(tmp_path, steps=6, grid=3), torch.randn(7, 3)
    torch.testing.assert_close(answers(front.models[EQUAL], points), answers(front.models["0.5,0.5"], points))


@pytest.mark.parametrize("objective", ["linear", "exact"])
def test_after_training_a_preferred_task_does_better(tmp_path: Path, objective: str) -> None:
    """The tasks want opposite answers everywhere, so that only the preference decides."""
    pool, points = torn_pool(), torch.randn(64, 3, generator=torch.Generator().manual_seed(5))
    front = build(tmp_path, pool, steps=80, batch=8, learning_rate=0.05, objective=objective)
    shares = {label: answers(front.models[label], points).softmax(-1)[:, 1].mean() for label in front.models}
    assert shares["0,1"] > shares[EQUAL] > shares["1,0"]
    assert shares["0,1"] - shares["1,0"] > 0.3


def test_gates_alone_are_trained_and_inputs_stay(tmp_path: Path) -> None:
    pool = pool_of()
    before = {name: source.fingerprint() for name, source in {"base": pool.base, **pool.experts}.items()}
    first = build(tmp_path / "a", pool, steps=0).models[EQUAL].module.state_dict()
    model = build(tmp_path / "b", pool, steps=3).models[EQUAL]
    moved = {name for name, tensor in model.module.state_dict().items() if not torch.equal(tensor, first[name])}
    assert moved == set(routers_of(model))
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert before == {name: source.fingerprint() for name, source in {"base": pool.base, **pool.experts}.items()}


@pytest.mark.parametrize("objective", ["linear", "exact"])
def test_the_first_step_descends_the_weighed_gradient(tmp_path: Path, objective: str) -> None:
    """Adam's first step is the sign of the gradient; the gradient is autograd's through the merge, task by task."""
    pool = pool_of()
    tasks = tasks_of(pool)
    model = build(tmp_path / "a", pool, steps=0).models[EQUAL]
    gates = list(routers_of(model).values())
    for gate in gates:
        gate.requires_grad_(True)
    ray = np.random.default_rng([0, 0]).dirichlet([1.0, 1.0])
    prefer(model.module, ray.tolist())
    losses, rows = [], []
    for task in tasks.values():
        loss = task.loss(model.for_task(task), next(task.batches("train", size=8, seed=0)))
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, gates)]))
        losses.append(loss.item())
    jacobian = torch.stack(rows).numpy().astype(np.float64)
    weights = ray if objective == "linear" else 2 * exact_pareto_weights(ray, np.array(losses), jacobian @ jacobian.T)
    expected = weights @ jacobian
    start = torch.cat([gate.detach().flatten() for gate in gates]).numpy()
    stepped = build(tmp_path / "b", pool, steps=1, batch=8, learning_rate=0.01, objective=objective).models[EQUAL]
    found = torch.cat([gate.detach().flatten() for gate in routers_of(stepped).values()]).numpy()
    clear = np.abs(expected) > 1e-6
    assert clear.sum() > 20
    np.testing.assert_allclose((found - start)[clear], -0.01 * np.sign(expected)[clear], atol=2e-4)
    (point,) = read_curve(tmp_path / "b" / "training" / "pwe_moe")
    said = {"loss": ray @ losses, "loss e0": losses[0], "loss e1": losses[1]}
    assert point.metrics == pytest.approx(said, rel=1e-5)


def test_exact_weights_are_as_many_times_the_programmes_as_there_are_tasks() -> None:
    """Adam does not see the length of a gradient, so that the factor T is looked at by itself."""
    ray, losses, jacobian = np.array([0.5, 0.5]), np.array([2.0, 1.0]), torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5]])
    found = GateTraining(objective="exact")._weights(ray, losses, jacobian)
    np.testing.assert_allclose(found, [2 * 0.859208, 2 * 0.140792], atol=4e-6)
    assert GateTraining()._weights(ray, losses, jacobian) is ray


def test_two_objectives_and_concentrations_learn_other_gates(tmp_path: Path) -> None:
    variants = ({}, {"objective": "exact"}, {"concentration": 9.0}, {"batch": 4}, {"init": 0.2}, {"depth": 1})
    found = []
    for number, values in enumerate(variants):
        model = build(tmp_path / str(number), steps=4, **values).models[EQUAL]
        found.append(torch.cat([gate.detach().flatten() for gate in routers_of(model).values()]))
    for other in found[1:]:
        assert other.shape != found[0].shape or not torch.allclose(other, found[0], atol=1e-4)


def test_the_rate_falls_to_a_tenth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def seen(optimizer: Any, *given: Any, **named: Any) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *given, **named)

    monkeypatch.setattr(torch.optim.Adam, "step", seen)
    build(tmp_path, steps=40, learning_rate=0.01)
    assert rates[0] == pytest.approx(0.01)
    assert 0.001 <= rates[-1] < 0.0011


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    pool = pool_of()
    whole = build(tmp_path / "a", pool, steps=12, checkpoint_every=4)

    class Stopped(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if done == 7:
            raise Stopped

    context = Kept(tmp_path / "b").context(FAMILY, progress=stop)
    with pytest.raises(Stopped):
        called(pwe_moe, pool, tasks_of(pool), context, steps=12, checkpoint_every=4)
    resumed = build(tmp_path / "b", pool, steps=12, checkpoint_every=4)
    pairs = zip(routers_of(whole.models[EQUAL]).values(), routers_of(resumed.models[EQUAL]).values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_curve_has_every_tasks_loss_and_scores_on_the_way(tmp_path: Path) -> None:
    pool = pool_of()
    context = Kept(tmp_path).context(FAMILY, evaluate=lambda fused: {"e0": 0.25, "e1": 0.75})
    called(pwe_moe, pool, tasks_of(pool), context, steps=2, evaluate_every=1)
    points = read_curve(tmp_path / "training" / "pwe_moe")
    assert [point.metrics["validation"] for point in points] == [0.5, 0.5]
    assert {"loss", "loss e0", "loss e1"} <= set(points[0].metrics)


def test_the_report_says_which_data_and_preferences(tmp_path: Path) -> None:
    pool, kept = pool_of(), Kept(tmp_path)
    called(pwe_moe, pool, tasks_of(pool), kept.context(FAMILY), steps=2, batch=3)
    assert kept.used["adapted"] == {"split": "train", "tasks": ("e0", "e1"), "count": 6}
    assert kept.notes == ["preferences are over e0, e1, in this order"]
    merged = Kept(tmp_path / "b")
    gates = str(tmp_path / "gates")
    called(pwe_moe, pool, {}, merged.context(FAMILY), gates=gates, preference=[0.25, 0.75])
    assert merged.notes == ["merged for the preference e0 0.25, e1 0.75"]
    assert merged.used == {}


def test_saved_and_opened_it_answers_the_same(tmp_path: Path) -> None:
    pool, points = pool_of(), torch.randn(6, 3)
    front = build(tmp_path / "a", pool, steps=3)
    pool.base.folder = None
    front.save(tmp_path / "saved")
    again = open_mixed(open_source(tmp_path / "saved"))
    assert again is not None
    assert torch.equal(answers(again, points), answers(front.models[EQUAL], points))
    assert again.blueprint.sites["blocks.0.mlp"].kind == "preferred"


def test_merging_leaves_nothing_behind(tmp_path: Path) -> None:
    model = build(tmp_path, steps=0).models[EQUAL]
    (_, part), *_ = preferred_parts(model.module)
    with merged_for(model.module, [1.0, 0.0]):
        assert all(linear.held is not None for linear in part.maps())
        assert part.preference.tolist() == [1, 0]
    assert all(linear.held is None for linear in part.maps())
    assert part.preference is None


class Attending(Blocks):
    """Blocks that also hold a map of their own inside a module, and one in a module within that."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block["attention"] = torch.nn.ModuleDict({"ask": torch.nn.Linear(3, 3)})
            block["attention"]["inner"] = torch.nn.ModuleDict({"answer": torch.nn.Linear(3, 3)})


def test_maps_outside_the_mlps_are_weighed_by_the_outermost_module_that_holds_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = BlockFamily(Attending)
    known(monkeypatch, family)
    source = TensorSource("base", Attending().state_dict(), {"model_type": "toy"})
    sites = mlp_and_attention_sites(Pool(source, {"e0": source}), method="pwe_moe")
    assert [(site.name, list(site.linears)) for site in sites] == [
        ("blocks.0.mlp", ["up", "down"]),
        ("blocks.1.mlp", ["up", "down"]),
        ("blocks.0.attention", ["ask", "inner.answer"]),
        ("blocks.1.attention", ["ask", "inner.answer"]),
    ]
    assert set(sites[2].tensors) == {
        f"{part}.{kind}" for part in ("ask", "inner.answer") for kind in ("weight", "bias")
    }


class TestMistakes:
    def test_a_family_without_mlps(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = Toy(Blocks)
        known(monkeypatch, plain)
        with pytest.raises(MissingPart, match=r"'toy' has no list of MLPs \(pwe_moe need"):
            build(tmp_path, steps=0)

    def test_a_preference_off_the_simplex_before_anything_long(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"method\.preference=\[0\.2, 0\.9\] sums to 1\.1"):
            build(tmp_path, preference=[0.2, 0.9])
        with pytest.raises(ConfigError, match="expected 2 numbers, one an expert: e0, e1"):
            build(tmp_path, preference=[1.0])
        assert not (tmp_path / "training").exists()

    def test_an_expert_without_a_task(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"e0 has none here.*method\.gates"):
            build(tmp_path, tasks={})

    def test_a_task_without_training_data(self, tmp_path: Path) -> None:
        pool = pool_of()
        tasks = tasks_of(pool) | {"e1": Wanted("e1", 1, splits=("test",))}
        with pytest.raises(MissingData, match="e1 has no split train"):
            build(tmp_path, pool, tasks)

    def test_a_loss_that_is_not_finite(self, tmp_path: Path) -> None:
        pool = pool_of()
        with pytest.raises(NotFinite, match="training loss of e1 is nan"):
            build(tmp_path, pool, tasks_of(pool) | {"e1": Wanted("e1", 1, broken=True)}, steps=2)

    def test_gates_of_another_model(self, tmp_path: Path) -> None:
        build(tmp_path / "a", steps=0)
        with pytest.raises(ConfigError, match=r"holds gates of another model\. Leave method\.gates out"):
            build(tmp_path / "b", gates=str(tmp_path / "a" / "gates"), depth=1)
