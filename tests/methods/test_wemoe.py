"""WEMoE: at first it is task arithmetic, routers alone are trained, and what they learn is kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from routing import BlockFamily, Blocks, called, known, pool_of
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from toys import Kept, Sides, Toy

from fusionbench.errors import ConfigError, MissingPart, NotAdaptable, NotFinite
from fusionbench.methods._routing import check_route, routed_mlp, routers_of
from fusionbench.methods.wemoe import wemoe
from fusionbench.mixing.sites import ModuleSite
from fusionbench.training.checkpoint import read_curve
from fusionbench.weights.tensors import TensorSource

FAMILY = BlockFamily()


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, FAMILY)


def tasks_of(pool: Any, family: Any = FAMILY) -> dict[str, Sides]:
    return {name: Sides(name, family, i) for i, name in enumerate(pool.experts)}


def build(folder: Path, pool: Any = None, **values: Any) -> Any:
    pool = pool or pool_of()
    return called(wemoe, pool, tasks_of(pool), Kept(folder).context(FAMILY, log_every=1), **values)


def arithmetic(pool: Any, scale: float) -> dict[str, torch.Tensor]:
    states = [source._tensors for source in (pool.base, *pool.experts.values())]
    return {n: states[0][n] + scale * sum(s[n] - states[0][n] for s in states[1:]) for n in states[0]}


def answers(model: Any, points: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.module(points)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("route", ["sample", "batch"])
def test_with_silent_routers_it_is_task_arithmetic(tmp_path: Path, depth: int, route: str) -> None:
    pool, points = pool_of(), torch.randn(7, 3)
    model = build(tmp_path, pool, steps=0, depth=depth, route=route)
    for name, parameter in routers_of(model).items():
        if name.endswith("weight"):
            parameter.data.zero_()
    expected = functional_call(Blocks(), arithmetic(pool, 0.3), (points,))
    torch.testing.assert_close(answers(model, points), expected, atol=1e-5, rtol=1e-5)


def test_samples_share_weights_in_groups_that_the_model_keeps(tmp_path: Path) -> None:
    """However many are run at once: evaluation has larger batches than the papers' tables had."""
    points, models = torch.randn(7, 3), {}
    for name, values in (("threes", {"shared_by": 3}), ("whole", {})):
        models[name] = build(tmp_path / name, steps=0, route="batch", **values)
        for parameter in routers_of(models[name]).values():
            parameter.data.mul_(30)
    expected = torch.cat([answers(models["threes"], group) for group in points.split(3)])
    torch.testing.assert_close(answers(models["threes"], points), expected, rtol=1e-5, atol=1e-5)
    # By default 128, so that seven are one group.
    assert (answers(models["whole"], points) - expected).abs().max() > 1e-3
    models["threes"].save(tmp_path / "saved")
    assert '"shared_by": 3' in (tmp_path / "saved" / "fusion_config.json").read_text()


def test_routers_start_near_task_arithmetic(tmp_path: Path) -> None:
    found = routers_of(build(tmp_path, steps=0, init=0.4))
    last = found["blocks.0.mlp.router.layers.2.bias"]
    assert last.tolist() == pytest.approx([0.4, 0.4])
    assert not found["blocks.0.mlp.router.layers.0.bias"].any()
    first = torch.cat([p.detach().flatten() for name, p in found.items() if name.endswith("weight")])
    assert 0.006 < first.std().item() < 0.014
    assert not torch.equal(found["blocks.0.mlp.router.layers.0.weight"], found["blocks.1.mlp.router.layers.0.weight"])


def test_the_worked_example_by_hand() -> None:
    """W₀ = 1, τ = 1 and 2, a free vector of .3: 1 + .3 + .6 = 1.9."""
    site = ModuleSite("mlp", {"up.weight": "w"}, {"up": True}, experts=("a", "b"))
    tensors = [{"up.weight": torch.tensor([[value]])} for value in (1.0, 2.0, 3.0)]
    made = routed_mlp(site, tensors[0], tensors[1:], depth=0, init=0.3).tensors
    assert made["mlp.up.delta"].flatten().tolist() == [1, 2]
    merged = made["mlp.up.weight"] + torch.tensordot(made["router.free"], made["mlp.up.delta"], dims=1)
    assert merged.item() == pytest.approx(1.9)


@pytest.mark.parametrize(("depth", "gate"), [(0, 2), (1, 3 * 2 + 2), (2, 3 * 3 + 3 + 3 * 2 + 2)])
def test_parameters_are_those_of_the_formula(tmp_path: Path, depth: int, gate: int) -> None:
    """Everything outside the MLPs, T + 1 MLPs a block, and a router a block."""
    model = build(tmp_path, steps=0, depth=depth)
    mlp, outside = 3 * 5 + 5 + 5 * 3 + 3, 2 * 6 + 3 * 2 + 2
    assert sum(p.numel() for p in routers_of(model).values()) == 2 * gate
    assert model.parameters == outside + 2 * (3 * mlp + gate)


def test_a_vit_b_32_has_as_many_trainable_parameters_as_the_paper_says() -> None:
    from fusionbench.mixing.routed import Router

    with torch.device("meta"):
        sizes = {depth: sum(p.numel() for p in Router(768, 8, depth).parameters()) for depth in (1, 2)}
    assert (12 * sizes[1], 12 * sizes[2]) == (73_824, 7_160_928)
    assert 30_786_816 + 9 * 56_669_184 + 12 * sizes[2] == 547_970_400


def test_training_lowers_the_entropy_and_moves_nothing_but_routers(tmp_path: Path) -> None:
    pool = pool_of()
    before = {name: source.fingerprint() for name, source in {"base": pool.base, **pool.experts}.items()}
    first = {n: t.clone() for n, t in build(tmp_path / "a", pool, steps=0).module.state_dict().items()}
    model = build(tmp_path / "b", pool, steps=60, learning_rate=0.02)
    losses = [point.metrics["loss"] for point in read_curve(tmp_path / "b" / "training" / "wemoe")]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    moved = {name for name, tensor in model.module.state_dict().items() if not torch.equal(tensor, first[name])}
    assert moved == set(routers_of(model))
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert before == {name: source.fingerprint() for name, source in {"base": pool.base, **pool.experts}.items()}


def test_the_rate_follows_the_cosine(tmp_path: Path) -> None:
    one, other = (build(tmp_path / s, steps=8, learning_rate=0.05, schedule=s) for s in ("cosine", "constant"))
    pairs = zip(routers_of(one).values(), routers_of(other).values(), strict=True)
    assert not all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_saved_routers_give_the_same_model_without_adaptation(tmp_path: Path) -> None:
    pool, points = pool_of(), torch.randn(4, 3)
    first = build(tmp_path / "a", pool, steps=5, learning_rate=0.05)
    again = called(wemoe, pool, {}, Kept(tmp_path / "b").context(FAMILY), routers=str(tmp_path / "a" / "routers"))
    assert torch.equal(answers(first, points), answers(again, points))
    with pytest.raises(ConfigError, match="routers of another model"):
        called(wemoe, pool, {}, Kept(tmp_path / "c").context(FAMILY), routers=str(tmp_path / "a" / "routers"), depth=1)


def test_routers_are_of_their_experts_in_their_order(tmp_path: Path) -> None:
    pool = pool_of()
    build(tmp_path / "a", pool, steps=0)
    turned, context = replace(pool, experts=dict(reversed(pool.experts.items()))), Kept(tmp_path / "b").context(FAMILY)
    with pytest.raises(ConfigError, match=r"routers that weigh e0, e1; here the experts are e1, e0, in this order\. L"):
        called(wemoe, turned, {}, context, routers=str(tmp_path / "a" / "routers"))
    # Files of earlier versions do not say whose they are.
    (file,) = (tmp_path / "a" / "routers").glob("*.safetensors")
    save_file(load_file(file), file)
    called(wemoe, turned, {}, context, routers=str(tmp_path / "a" / "routers"))


def test_what_routers_learn_on_is_float32_whatever_the_models_are(tmp_path: Path) -> None:
    pool = pool_of()
    half = {
        name: TensorSource(name, {key: tensor.bfloat16() for key, tensor in source._tensors.items()}, source.config)
        for name, source in {"base": pool.base, **pool.experts}.items()
    }
    model = build(tmp_path, replace(pool, base=half.pop("base"), experts=half), steps=1)
    assert {spec.dtype for spec in model.specs.values()} == {"F32"}


def test_a_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    pool = pool_of()

    class Broken(Sides):
        def objective(self, predict: Any, batch: Any) -> Any:
            found = super().objective(predict, batch)
            return found * float("nan") if len(batch["points"]) > 2 else found

    tasks = {"e0": Sides("e0", FAMILY, 0), "e1": Broken("e1", FAMILY, 1)}
    with pytest.raises(NotFinite, match=r"routers' loss on the task e1 is nan: .* lower method.learning_rate"):
        called(wemoe, pool, tasks, Kept(tmp_path).context(FAMILY), steps=2)


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    pool = pool_of()
    whole = build(tmp_path / "a", pool, steps=12, checkpoint_every=4)

    class Stopped(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if done == 7:
            raise Stopped

    with pytest.raises(Stopped):
        called(
            wemoe,
            pool,
            tasks_of(pool),
            Kept(tmp_path / "b").context(FAMILY, progress=stop),
            steps=12,
            checkpoint_every=4,
        )
    resumed = build(tmp_path / "b", pool, steps=12, checkpoint_every=4)
    for one, other in zip(routers_of(whole).values(), routers_of(resumed).values(), strict=True):
        assert torch.equal(one, other)


def test_the_report_says_how_experts_are_weighed_and_on_which_data(tmp_path: Path) -> None:
    pool, kept = pool_of(), Kept(tmp_path)
    called(wemoe, pool, tasks_of(pool), kept.context(FAMILY), steps=2, batch=3, route="batch")
    assert kept.notes == ["the experts are weighed by batch"]
    assert kept.used["adapted"] == {"split": "test", "tasks": ("e0", "e1"), "count": 6}


def test_scores_on_the_way_are_in_the_curve(tmp_path: Path) -> None:
    pool, kept = pool_of(), Kept(tmp_path)
    context = kept.context(FAMILY, evaluate=lambda fused: {"e0": 0.25, "e1": 0.75})
    called(wemoe, pool, tasks_of(pool), context, steps=2, evaluate_every=1)
    assert [p.metrics["validation"] for p in read_curve(tmp_path / "training" / "wemoe")] == [0.5, 0.5]


def test_a_family_without_mlps_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Toy(Blocks)
    known(monkeypatch, plain)
    with pytest.raises(MissingPart, match=r"'toy' has no list of MLPs \(wemoe need"):
        called(wemoe, pool_of(), {}, Kept(tmp_path).context(plain))


def test_what_cannot_be_adapted_is_refused_at_once(tmp_path: Path) -> None:
    pool = pool_of()
    with pytest.raises(NotAdaptable, match="no distribution"):
        called(wemoe, pool, {"e0": Sides("e0", FAMILY, 0, adaptable=False)}, Kept(tmp_path).context(FAMILY))
    with pytest.raises(NotAdaptable, match="no tasks"):
        called(wemoe, pool, {}, Kept(tmp_path).context(FAMILY))


def test_a_model_that_writes_is_not_routed_by_what_it_has_not_written() -> None:
    class Writer(BlockFamily):
        def text_codec(self, source: Any) -> Any: ...

        def decode(self, backbone: Any, batch: Any, tokens: int) -> Any: ...

    with pytest.raises(ConfigError, match=r"Choose method\.route=token"):
        check_route(Writer(), "sample", "wemoe")
    check_route(Writer(), "token", "wemoe")
