"""Kernels of whole tensors give the bits of their torch functions: any shapes, kinds, parameters, tiles and threads."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusing import plan_for
from fusionbench.errors import ConfigError
from fusionbench.kernels.angles import ARC, STOCK
from fusionbench.kernels.band import BAND
from fusionbench.kernels.counting import drop_above
from fusionbench.kernels.ranked import RANKED, keep_probabilities
from fusionbench.kernels.variance import MAJORITY, deviations, merge_majority
from fusionbench.parameters import check
from fusionbench.registry import methods
from fusionbench.weights.engine import run_plan
from fusionbench.weights.tensors import MemorySink

SHAPES = {"m": (7, 9), "v": (13,), "s": (), "e": (0, 3), "c": (3, 2, 2, 2), "one": (1, 1)}
KINDS = [torch.float32, torch.bfloat16, torch.float16]


def models(seed: int, count: int, kind: torch.dtype, coarse: bool):
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape):
        fine = torch.randn(shape, generator=generator)
        return ((fine * 8).round() / 8 if coarse else fine).to(kind)

    base = {name: drawn(shape) for name, shape in SHAPES.items()}
    experts = {f"e{i}": {n: (t + drawn(t.shape) * 0.5).to(kind) for n, t in base.items()} for i in range(count)}
    experts["e0"]["v"] = base["v"].clone()
    return base, experts


def both(method, base, experts, parameters, *, threads=1, config=None):
    """The kernel's result and the torch function's, as bytes by name."""
    entry = methods[method]
    plan = plan_for(method, base, experts, parameters, seed=3, config=config)
    values = check(method, entry.parameters, parameters)
    found = []
    for chosen in (entry, dataclasses.replace(entry, kernel="")):
        sink = MemorySink([step.output for step in plan])
        run_plan(plan, chosen, sink, values=values, threads=threads)
        found.append({n: bytes(t.contiguous().view(-1).view(torch.uint8).numpy()) for n, t in sink.weights.items()})
    return found


CASES = {
    "model_stock": st.fixed_dictionaries({
        "clamp": st.booleans(), "small_norms": st.sampled_from(["exact", "floor", "offset"]),
    }),
    "breadcrumbs": st.fixed_dictionaries({
        "top_drop": st.sampled_from([0.0, 0.1, 0.4]), "density": st.sampled_from([0.2, 0.5, 1.0]),
        "combine": st.sampled_from(["linear", "ties"]), "normalize": st.booleans(),
        "keep": st.sampled_from(["at_least_one", "exact", "official"]),
        "zero_sign": st.sampled_from(["zero", "positive"]),
    }),
    "della": st.fixed_dictionaries({
        "density": st.sampled_from([0.3, 0.5, 1.0]), "epsilon": st.sampled_from([0.0, 0.1, 0.25]),
        "rescale": st.sampled_from(["inverse", "none"]), "combine": st.sampled_from(["linear", "ties"]),
        "normalize": st.booleans(), "zero_sign": st.sampled_from(["zero", "positive"]),
    }),
    "sce": st.fixed_dictionaries({
        "select_topk": st.sampled_from([0.1, 0.29, 0.5, 1.0]), "thresholds": st.sampled_from(["relative", "absolute"]),
    }),
}  # fmt: skip


@pytest.mark.parametrize("method", CASES)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_the_kernel_equals_torch(method, data) -> None:
    count = data.draw(st.integers(2, 4))
    base, experts = models(
        data.draw(st.integers(0, 99)), count, data.draw(st.sampled_from(KINDS)), data.draw(st.booleans())
    )
    fast, plain = both(method, base, experts, data.draw(CASES[method]))
    assert fast == plain


LARGE = {
    "model_stock": {}, "breadcrumbs": {"density": 0.3, "top_drop": 0.1}, "della": {"density": 0.5, "epsilon": 0.2},
    "sce": {"select_topk": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("method", LARGE)
def test_the_kernel_equals_torch_where_a_tensor_has_several_tiles_and_blocks(method) -> None:
    generator = torch.Generator().manual_seed(5)
    base = {"w": torch.randn(1100, 1001, generator=generator)}
    experts = {
        f"e{i}": {"w": (base["w"] + torch.randn(1100, 1001, generator=generator).mul(64).round() / 512).bfloat16()}
        for i in range(3)
    }
    fast, plain = both(method, base, experts, LARGE[method], threads=2)
    assert fast == plain


def test_a_row_longer_than_a_tile_is_ranked_as_a_whole(small_tiles) -> None:
    base, experts = models(4, 2, torch.float32, False)
    fast, plain = both("della", base, experts, LARGE["della"])
    small_tiles(5, 10)
    assert both("della", base, experts, LARGE["della"])[0] == fast == plain


@pytest.mark.parametrize("method", LARGE)
def test_tiles_and_threads_change_nothing(method, small_tiles) -> None:
    base, experts = models(11, 3, torch.bfloat16, True)
    _, plain = both(method, base, experts, LARGE[method])
    for tile, threads in ((7, 1), (16, 3), (40, 2)):
        small_tiles(tile, 1 << 20)
        assert both(method, base, experts, LARGE[method], threads=threads)[0] == plain


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("ends", [1, 2])
def test_slerp_equals_torch_but_for_the_last_place_of_sines(kind, ends) -> None:
    """Python's and torch's sines may differ in their last place, hence a float32 coefficient by one place too."""
    base, experts = models(2, ends, kind, False)
    fast, plain = both("slerp", base, experts, {"t": 0.3})
    for name in base:
        found, expected = (
            torch.frombuffer(bytearray(side[name]), dtype=kind).float() if side[name] else torch.empty(0)
            for side in (fast, plain)
        )
        torch.testing.assert_close(found, expected, rtol=float(torch.finfo(kind).eps), atol=1e-7, msg=name)
    straight = {name: (tensor.float() * 1.001).to(kind) for name, tensor in base.items()}
    fast, plain = both("slerp", base, {"e": straight}, {"t": 0.3})
    assert fast == plain


def test_slerp_starts_at_the_base_only_where_there_is_one_expert() -> None:
    base = {"w": torch.tensor([5.0, 5.0])}
    experts = {"a": {"w": torch.tensor([1.0, 0.0])}, "b": {"w": torch.tensor([0.0, 1.0])}}
    fast, plain = both("slerp", base, experts, {"t": 0.0})
    assert np.frombuffer(fast["w"], np.float32).tolist() == [1.0, 0.0]
    assert fast == plain


@pytest.mark.parametrize(
    ("method", "parameters", "count", "words"),
    [
        ("slerp", {}, 3, "two experts, or a base and one expert"),
        ("model_stock", {}, 1, "two experts or more"),
        ("breadcrumbs", {"bottom_drop": 0.5}, 2, "set one of them to null"),
        ("breadcrumbs", {"density": None}, 2, "are both null"),
        ("della", {"density": 0.05}, 2, r"must lie in \(0, 1\]"),
    ],
)
def test_the_kernel_refuses_what_torch_refuses(method, parameters, count, words) -> None:
    base, experts = models(1, count, torch.float32, False)
    plan = plan_for(method, base, experts, parameters)
    values = check(method, methods[method].parameters, parameters)
    with pytest.raises(ConfigError, match=words):
        run_plan(plan, methods[method], MemorySink([s.output for s in plan]), values=values, threads=1)


def test_what_the_kernels_leave_to_torch() -> None:
    def defaults(method):
        return check(method, methods[method].parameters, {})

    assert ARC.serves(defaults("slerp"))
    assert MAJORITY.serves(defaults("sce"))
    assert STOCK.serves(defaults("model_stock"))
    assert not STOCK.serves({**defaults("model_stock"), "average": "angle"})
    assert not STOCK.serves({**defaults("model_stock"), "granularity": "row"})
    assert BAND.serves(defaults("breadcrumbs"))
    assert not BAND.serves({**defaults("breadcrumbs"), "granularity": "row"})
    assert not BAND.serves({**defaults("breadcrumbs"), "rescale": "norm"})
    assert RANKED.serves(defaults("della"))
    assert not RANKED.serves({**defaults("della"), "rescale": "norm"})


def test_ranks_in_columns_are_left_to_torch() -> None:
    """GPT-2's Conv1D has its outputs in columns."""
    base = {"h.0.attn.c_attn.weight": torch.randn(6, 4, generator=torch.Generator().manual_seed(0))}
    experts = {"e": {"h.0.attn.c_attn.weight": base["h.0.attn.c_attn.weight"] * 1.5}}
    fast, plain = both("della", base, experts, {"density": 0.5}, config={"model_type": "gpt2"})
    assert fast == plain


def test_entries_above_a_target_are_dropped_by_hand() -> None:
    rows = np.array([[3.0, -2.0, 2.0, 1.0, -5.0, 2.0]], np.float32)
    target = np.array([2.0], np.float32).view(np.uint32)
    drop_above(rows.view(np.uint32), target, np.array([1]))
    assert rows.tolist() == [[0.0, 0.0, 2.0, 1.0, 0.0, 2.0]]


def test_probabilities_grow_with_the_rank_by_hand() -> None:
    """ρ = .5, ε = .2 over five columns: .3 to .7 from the least magnitude; of equal ones the first is lower."""
    found = keep_probabilities(np.array([[4.0, -1.0, 0.0, 1.0, -9.0]], np.float32), 0.5, 0.2)
    np.testing.assert_allclose(found, [[0.6, 0.4, 0.3, 0.5, 0.7]], rtol=1e-6)
    assert keep_probabilities(np.ones((3, 1), np.float32), 0.5, 0.2).tolist() == [[0.5]] * 3


def test_deviations_by_hand() -> None:
    out = np.empty(3, np.float32)
    deviations(np.array([[1.0, 2.0, 5.0], [3.0, 2.0, -5.0]], np.float32), out)
    assert out.tolist() == [1.0, 0.0, 5.0]


@pytest.mark.parametrize(("least", "expected"), [(0.0, [2.5, -1.0, 0.0, 4.0]), (10.0, [1.0, -0.1, 0.0, 0.4])])
def test_the_majoritys_mean_by_hand(least, expected) -> None:
    """Weights 1 and 3: (1·1 + 3·3)/4; the minus wins; nothing; an exact tie elects plus, which is the first's."""
    deltas = np.array([[1.0, -1.0, 0.0, 4.0], [3.0, 0.5, 0.0, -4.0]], np.float32)
    out = np.empty(4, np.float32)
    merge_majority(out, deltas, np.array([1.0, 3.0], np.float32), least)
    np.testing.assert_allclose(out, expected, rtol=1e-6)
