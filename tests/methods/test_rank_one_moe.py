"""Rank-one MoE: the worked numbers, the reference, exact counts, and what routers do with triples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from independent_routing import rank_one_map, soft_top
from replacing import module_of
from routing import BlockFamily, Blocks, called, known, pool_of
from torch import nn
from torch.func import functional_call
from toys import Kept, Sides
from transformers.pytorch_utils import Conv1D

from fusionbench.errors import ConfigError
from fusionbench.methods._routing import routers_of
from fusionbench.methods.rank_one_moe import leading_triples, rank_one_mlp, rank_one_moe
from fusionbench.mixing import mixed
from fusionbench.mixing.mixed import open_mixed
from fusionbench.mixing.rank_one_linear import RankOneLinear
from fusionbench.mixing.rank_one_linear import soft_top as ours_soft_top
from fusionbench.mixing.routed import Router
from fusionbench.mixing.sites import ModuleSite
from fusionbench.training.checkpoint import read_curve
from fusionbench.weights.sources import open_source

FAMILY = BlockFamily()


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, FAMILY)


def build(folder: Path, pool: Any = None, **values: Any) -> Any:
    pool = pool or pool_of()
    tasks = {name: Sides(name, FAMILY, i) for i, name in enumerate(pool.experts)}
    return called(rank_one_moe, pool, tasks, Kept(folder).context(FAMILY, log_every=1), **{"rank_k": 2, **values})


def silence(model: Any) -> Any:
    for name, parameter in routers_of(model).items():
        if name.endswith("weight"):
            parameter.data.zero_()
    return model


def answers(model: Any, points: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.module(points)
    return found


def test_the_worked_example() -> None:
    """W₀ = 0, ΔW = diag(3, 1), rank 1, g = .3: diag(.9, 0)."""
    left, right = leading_triples([torch.diag(torch.tensor([3.0, 1.0]))], 1, "up")
    torch.testing.assert_close((left * 0.3) @ right, torch.diag(torch.tensor([0.9, 0.0])))


def test_a_soft_choice_of_two() -> None:
    """By hand: (3, 1, 2, .5), the second largest 2: σ(100) = 1, σ(−100) = 0, σ(0) = ½."""
    found = ours_soft_top(torch.tensor([3.0, 1.0, 2.0, 0.5]), 2)
    torch.testing.assert_close(found, torch.tensor([3.0, 0.0, 1.0, 0.0]))
    np.testing.assert_allclose(soft_top(np.array([3.0, 1.0, 2.0, 0.5]), 2), [3, 0, 1, 0], atol=1e-12)


def linear_case(bias: bool, inputs_last: bool, seed: int = 0) -> Any:
    """An MLP of one map, 5 × 4, of a base and three experts, with a router's weights set from outside."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for _ in range(4):
        weight = torch.randn(5, 4, generator=generator)
        held = {"up.weight": weight if inputs_last else weight.T.contiguous()}
        tensors.append(held | ({"up.bias": torch.randn(5, generator=generator)} if bias else {}))
    site = ModuleSite("mlp", linears={"up": inputs_last}, experts=("a", "b", "c"), seed=3)
    return tensors, site


def mlp_of(bias: bool, inputs_last: bool) -> nn.Module:
    return nn.ModuleDict({"up": nn.Linear(4, 5, bias=bias) if inputs_last else Conv1D(5, 4)})


@pytest.mark.parametrize("select", [0, 3])
@pytest.mark.parametrize("inputs_last", [True, False])
def test_a_map_is_the_references(select: int, inputs_last: bool) -> None:
    tensors, site = linear_case(True, inputs_last)
    made = rank_one_mlp(site, tensors[0], tensors[1:], rank_k=2, select_k=select, init=0.4)
    module = module_of(made, mlp_of(True, inputs_last))
    hidden, weights = torch.randn(3, 6, 4), torch.randn(3, 6)
    module.mlp.up.weights = weights
    with torch.no_grad():
        found = module.mlp.up(hidden)
    turn = (lambda t: t.double().numpy()) if inputs_last else (lambda t: t.T.double().numpy())
    arrays = [(turn(t["up.weight"]), t["up.bias"].double().numpy()) for t in tensors]
    for sample in range(3):
        used = weights[sample].double().numpy()
        used = soft_top(used, select) if select else used
        for token in range(6):
            expected = rank_one_map(
                hidden[sample, token].double().numpy(), *arrays[0], arrays[1:], used, rank=2, init=0.4
            )
            np.testing.assert_allclose(found[sample, token].numpy(), expected, atol=1e-4)


def test_a_batchs_and_each_tokens_weights_are_taken_too() -> None:
    tensors, site = linear_case(False, True)
    up = module_of(rank_one_mlp(site, tensors[0], tensors[1:], rank_k=2), mlp_of(False, True)).mlp.up
    hidden, weights = torch.randn(2, 3, 4), torch.randn(2, 3, 6)
    with torch.no_grad():
        up.weights = weights
        each = up(hidden)
        for sample in range(2):
            for token in range(3):
                up.weights = weights[sample, token]
                torch.testing.assert_close(each[sample, token], up(hidden[sample, token]))


@pytest.mark.parametrize("route", ["sample", "batch"])
def test_with_silent_routers_and_all_triples_it_is_task_arithmetic(tmp_path: Path, route: str) -> None:
    pool, points = pool_of(), torch.randn(7, 3)
    states = [source._tensors for source in (pool.base, *pool.experts.values())]
    summed = {n: states[0][n] + 0.3 * sum(s[n] - states[0][n] for s in states[1:]) for n in states[0]}
    found = answers(silence(build(tmp_path, pool, steps=0, rank_k=3, route=route)), points)
    torch.testing.assert_close(found, functional_call(Blocks(), summed, (points,)), atol=1e-5, rtol=1e-5)


def test_at_the_start_each_change_is_cut_to_its_rank(tmp_path: Path) -> None:
    pool, points = pool_of(), torch.randn(7, 3)
    states = [{n: t.double() for n, t in s._tensors.items()} for s in (pool.base, *pool.experts.values())]
    cut = {}
    for name, origin in states[0].items():
        deltas = [state[name] - origin for state in states[1:]]
        if ".mlp." in name and name.endswith("weight"):
            parts = [np.linalg.svd(delta.numpy(), full_matrices=False) for delta in deltas]
            deltas = [torch.from_numpy(np.outer(u[:, 0], v[0]) * s[0]) for u, s, v in parts]
        cut[name] = (origin + 0.3 * sum(deltas)).float()
    found = answers(silence(build(tmp_path, pool, steps=0, rank_k=1)), points)
    torch.testing.assert_close(found, functional_call(Blocks(), cut, (points,)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("depth", "gate"), [(1, 3 * 4 + 4), (2, 3 * 8 + 8 + 8 * 4 + 4)])
def test_parameters_are_those_of_the_formula(tmp_path: Path, depth: int, gate: int) -> None:
    """The base's, T·r·(m + n) for each map of each MLP, and a router a block."""
    model = build(tmp_path, steps=0, depth=depth)
    own = sum(parameter.numel() for parameter in Blocks().parameters())
    assert model.trainable == 2 * gate
    assert model.parameters == own + 2 * 2 * 4 * (3 + 5) + 2 * gate
    model.save(tmp_path / "out")
    assert sum(spec.size for spec in open_source(tmp_path / "out").specs.values()) == model.parameters


def test_a_vit_b_32_has_as_many_parameters_as_the_page_says() -> None:
    with torch.device("meta"):
        gates = {depth: sum(p.numel() for p in Router(768, 256, depth, hidden=512).parameters()) for depth in (1, 2)}
    assert gates[1] == 196_864
    assert 12 * gates[1] == 2_362_368
    assert 87_456_000 + 12 * 2 * 256 * (768 + 3072) + 12 * gates[1] == 113_411_328


def test_training_lowers_the_entropy_and_moves_nothing_but_routers(tmp_path: Path) -> None:
    pool = pool_of()
    before = {name: source.fingerprint() for name, source in {"base": pool.base, **pool.experts}.items()}
    first = {n: t.clone() for n, t in build(tmp_path / "a", pool, steps=0).module.state_dict().items()}
    model = build(tmp_path / "b", pool, steps=60, learning_rate=0.02)
    losses = [point.metrics["loss"] for point in read_curve(tmp_path / "b" / "training" / "rank_one_moe")]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    moved = {name for name, tensor in model.module.state_dict().items() if not torch.equal(tensor, first[name])}
    assert moved == set(routers_of(model))
    assert before == {name: source.fingerprint() for name, source in {"base": pool.base, **pool.experts}.items()}


def test_it_is_saved_and_opened_to_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed, "family_named", lambda _: FAMILY)
    points = torch.randn(4, 3)
    model = build(tmp_path, steps=4, learning_rate=0.05, select_k=3, depth=2)
    model.save(tmp_path / "out")
    again = open_mixed(open_source(tmp_path / "out"))
    assert again is not None
    assert torch.equal(answers(model, points), answers(again, points))
    assert any(isinstance(part, RankOneLinear) for part in again.module.modules())


def test_saved_routers_give_the_same_model_without_adaptation(tmp_path: Path) -> None:
    pool, points = pool_of(), torch.randn(4, 3)
    first = build(tmp_path / "a", pool, steps=5, learning_rate=0.05)
    again = build(tmp_path / "b", pool, routers=str(tmp_path / "a" / "routers"))
    assert torch.equal(answers(first, points), answers(again, points))


def test_an_answer_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    model, points = build(tmp_path, steps=4, learning_rate=0.05), torch.randn(5, 3)
    together = answers(model, points)
    for row, point in zip(together, points, strict=True):
        torch.testing.assert_close(answers(model, point[None])[0], row)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rank_k": 4}, "method.rank_k=4: blocks.0.mlp.up is 5×3 and has 3 directions. Choose at most 3."),
        ({"rank_k": 2, "select_k": 5}, "method.select_k=5: 2 experts of rank 2 have 4 triples"),
    ],
)
def test_more_than_there_is_is_refused(values: dict[str, int], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        build(tmp_path, steps=0, **values)
    assert said in str(error.value)
