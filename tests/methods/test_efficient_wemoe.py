"""Efficient WEMoE: which entries stay, one router for all, less on disk, and the same answers after loading."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from routing import BlockFamily, Blocks, called, known, pool_of
from torch.func import functional_call
from toys import Kept, Sides

from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.methods._pruned import above_quantile
from fusionbench.methods._routing import routers_of
from fusionbench.methods.efficient_wemoe import efficient_wemoe
from fusionbench.methods.wemoe import wemoe
from fusionbench.mixing import mixed
from fusionbench.mixing.mixed import open_mixed
from fusionbench.training.checkpoint import read_curve
from fusionbench.weights.sources import open_source

FAMILY = BlockFamily()


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, FAMILY)


def build(folder: Path, pool: Any = None, method: Any = efficient_wemoe, **values: Any) -> Any:
    pool = pool or pool_of()
    tasks = {name: Sides(name, FAMILY, i) for i, name in enumerate(pool.experts)}
    return called(method, pool, tasks, Kept(folder).context(FAMILY, log_every=1), **values)


def silence(model: Any) -> Any:
    for name, parameter in routers_of(model).items():
        if name.endswith("weight"):
            parameter.data.zero_()
    return model


@pytest.mark.parametrize(
    ("values", "share", "kept"),
    [
        ([1.0, -2, 3, -4], 0.5, [0.0, 0, 3, -4]),
        ([float(n) for n in range(1, 11)], 0.9, [0.0] * 9 + [10]),
        ([1.0, 2, 3], 0.0, [0.0, 2, 3]),
        ([1.0, 2, 3], 1.0, [0.0, 0, 0]),
        ([2.0, 2, 2], 0.5, [0.0, 0, 0]),
        ([5.0], 0.5, [0.0]),
    ],
)
def test_the_worked_examples(values: list[float], share: float, kept: list[float]) -> None:
    tensor = torch.tensor(values)
    assert (tensor * above_quantile(tensor, share)).tolist() == kept


@pytest.mark.parametrize("share", [0.1, 0.37, 0.9])
def test_the_quantile_is_numpys(share: float) -> None:
    tensor = torch.randn(7, 13, generator=torch.Generator().manual_seed(1))
    limit = np.quantile(np.abs(tensor.double().numpy()), share)
    assert np.array_equal(above_quantile(tensor, share).numpy(), np.abs(tensor.double().numpy()) > limit)


def test_one_router_serves_all_blocks(tmp_path: Path) -> None:
    model = build(tmp_path, steps=0)
    assert {name.partition(".router.")[0] for name in routers_of(model)} == {"blocks.0.mlp"}
    assert model.trainable == 3 * 3 + 3 + 3 * 2 + 2


def test_a_vit_b_32s_router_has_the_papers_size() -> None:
    from fusionbench.mixing.routed import Router

    with torch.device("meta"):
        sizes = [sum(p.numel() for p in Router(768, 8, depth).parameters()) for depth in (1, 2)]
    assert sizes == [6_152, 596_744]
    assert 30_786_816 + 9 * 56_669_184 + sizes[1] == 541_406_216


def test_a_silent_router_gives_task_arithmetic_of_the_kept_entries(tmp_path: Path) -> None:
    pool, points = pool_of(), torch.randn(6, 3)
    model = silence(build(tmp_path, pool, steps=0, prune=0.5))
    states = [source._tensors for source in (pool.base, *pool.experts.values())]
    weights = {}
    for name, base in states[0].items():
        deltas = [state[name] - base for state in states[1:]]
        if ".mlp." in name:
            limits = [np.quantile(np.abs(d.double().numpy()), 0.5) for d in deltas]
            deltas = [d * (d.double().abs() > limit) for d, limit in zip(deltas, limits, strict=True)]
        weights[name] = base + 0.3 * sum(deltas)
    with torch.no_grad():
        found = model.module(points)
    torch.testing.assert_close(found, functional_call(Blocks(), weights, (points,)), atol=1e-5, rtol=1e-5)


def test_training_moves_the_one_router(tmp_path: Path) -> None:
    first = {n: t.clone() for n, t in build(tmp_path / "a", steps=0).module.state_dict().items()}
    model = build(tmp_path / "b", steps=60, learning_rate=0.02)
    losses = [point.metrics["loss"] for point in read_curve(tmp_path / "b" / "training" / "efficient_wemoe")]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    moved = {name for name, tensor in model.module.state_dict().items() if not torch.equal(tensor, first[name])}
    assert moved == set(routers_of(model))


def test_saved_and_opened_it_answers_the_same_and_is_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, points = pool_of(), torch.randn(6, 3)
    sparse = build(tmp_path / "a", pool, steps=3, learning_rate=0.05)
    dense = build(tmp_path / "b", pool, wemoe, steps=0)
    monkeypatch.setattr(mixed, "family_named", lambda name: FAMILY)
    for model, name in ((sparse, "sparse"), (dense, "dense")):
        pool.base.folder = None
        model.save(tmp_path / name)
    again = open_mixed(open_source(tmp_path / "sparse"))
    assert again is not None
    with torch.no_grad():
        assert torch.equal(again.module(points), sparse.module(points))
    # Of each change of 15 entries the largest two stay: quantile .9 of 15 lies between the 13th and the 14th.
    assert open_source(tmp_path / "sparse").specs["blocks.0.mlp.mlp.up.values"].shape == (4,)
    assert sparse.parameters < dense.parameters


def test_a_mask_that_does_not_belong_to_its_values_is_refused(tmp_path: Path) -> None:
    model = build(tmp_path, steps=0)
    model.module.blocks[0]["mlp"].mlp.up.mask.zero_()
    with pytest.raises(CheckpointError, match="marks 0 entries and stores 4"):
        model.module(torch.randn(2, 3))


def test_saved_routers_are_used_again_and_others_refused(tmp_path: Path) -> None:
    pool, points = pool_of(), torch.randn(4, 3)
    first = build(tmp_path / "a", pool, steps=5, learning_rate=0.05)
    again = build(tmp_path / "b", pool, routers=str(tmp_path / "a" / "routers"))
    with torch.no_grad():
        assert torch.equal(first.module(points), again.module(points))
    with pytest.raises(ConfigError, match="routers of another model"):
        build(tmp_path / "c", pool, wemoe, routers=str(tmp_path / "a" / "routers"))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_a_module_that_is_cast_after_a_pass_runs_on_what_it_holds_now(tmp_path: Path, kind: torch.dtype) -> None:
    points = torch.randn(3, 3)
    module, fresh = (build(tmp_path / str(number), steps=0).module for number in range(2))
    module(points)
    with torch.no_grad():
        found, expected = module.to(kind)(points.to(kind)), fresh.to(kind)(points.to(kind))
        assert torch.equal(found, expected)
        # And back: what was rounded stays rounded.
        assert torch.equal(module.float()(points), fresh.float()(points))


@pytest.mark.parametrize("assign", [False, True])
def test_a_module_that_is_filled_anew_after_a_pass_runs_on_what_it_holds_now(tmp_path: Path, assign: bool) -> None:
    points = torch.randn(3, 3)
    module, other = build(tmp_path / "a", steps=0).module, build(tmp_path / "b", steps=0).module
    first = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    turned = {name: -tensor if name.endswith(".values") else tensor for name, tensor in first.items()}
    with torch.no_grad():
        # The fresh tensors of both are as old as each other.
        for state in (first, turned):
            module.load_state_dict(state, assign=assign)
            found = module(points)
        other.load_state_dict(turned)
        assert torch.equal(found, other(points))
