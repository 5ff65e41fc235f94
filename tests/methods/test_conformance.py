"""What every stream method owes: the laws it claims, and what holds for all. A method joins by being registered."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import FAST, STREAM, State, bits, counts, fused, pool, state
from torch._subclasses.fake_tensor import FakeTensorMode

from fusing import plan_for
from fusionbench.parameters import check
from fusionbench.registry import methods

LAWS = [(name, law) for name in STREAM for law in methods[name].laws]
LOOSE = {"wudi": 1e-4, "doge_ta": 1e-4, "karcher": 1e-4, "knots": 1e-4}
"""Tolerance of methods that iterate or decompose; all others are within a few steps of float32."""
TOLERANCE = 1e-5
CARD = "lazy:0"
"""A device that is no CPU. A pretended "cuda" cannot be indexed by builds of torch that know no graphics card."""


def assert_near(found: State, expected: State, tolerance: float = TOLERANCE) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def identity(name: str, base: State, experts: dict[str, State], extra: State) -> None:
    assert_near(fused(name, base, dict.fromkeys(experts, base)), base, LOOSE.get(name, TOLERANCE))


def order(name: str, base: State, experts: dict[str, State], extra: State) -> None:
    turned = dict(reversed(experts.items()))
    assert_near(fused(name, base, turned), fused(name, base, experts), LOOSE.get(name, TOLERANCE))


def scale_zero(name: str, base: State, experts: dict[str, State], extra: State) -> None:
    assert_near(fused(name, base, experts, {"scale": 0.0}), base)


def shift(name: str, base: State, experts: dict[str, State], extra: State) -> None:
    def moved(tensors: State) -> State:
        return {n: tensors[n] + extra[n] for n in tensors}

    found = fused(name, moved(base), {e: moved(tensors) for e, tensors in experts.items()})
    assert_near(found, moved(fused(name, base, experts)), LOOSE.get(name, TOLERANCE))


def single(name: str, base: State, experts: dict[str, State], extra: State) -> None:
    (first, *_) = experts.items()
    assert_near(fused(name, base, dict([first])), first[1], LOOSE.get(name, TOLERANCE))


@pytest.mark.parametrize(("name", "law"), LAWS)
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_the_laws_that_a_method_claims_hold(name, law, seed, data):
    base, experts = pool(seed, data.draw(st.sampled_from(counts(name))), coarse=law == "shift")
    globals()[law](name, base, experts, state(seed + 7, coarse=True))


@pytest.mark.parametrize("name", STREAM)
def test_every_law_is_claimed_or_its_exemption_is_explained(name):
    entry = methods[name]
    assert {*entry.laws, *(entry.exempt or {})} == {"identity", "order", "scale_zero", "shift", "single"}
    assert not {*entry.laws} & {*(entry.exempt or {})}
    assert all(len(reason) > 10 for reason in (entry.exempt or {}).values())


@pytest.mark.parametrize("name", STREAM)
def test_shapes_kinds_and_inputs_stay_as_they_were(name):
    base, experts = pool(3, counts(name)[-1])
    before = bits(base), [bits(tensors) for tensors in experts.values()]
    result = fused(name, base, experts)
    assert {n: (t.shape, t.dtype) for n, t in result.items()} == {n: (t.shape, t.dtype) for n, t in base.items()}
    assert (bits(base), [bits(tensors) for tensors in experts.values()]) == before


@pytest.mark.parametrize("name", STREAM)
def test_a_result_is_the_same_bits_each_time_in_any_threads_and_whatever_the_order_of_the_files(name):
    base, experts = pool(4, counts(name)[-1], coarse=True)
    first = bits(fused(name, base, experts))
    assert bits(fused(name, base, experts, threads=2)) == first
    turned = {e: dict(reversed(tensors.items())) for e, tensors in experts.items()}
    assert bits(fused(name, dict(reversed(base.items())), turned)) == first


@pytest.mark.parametrize("name", [name for name in STREAM if methods[name].unit == "element"])
@pytest.mark.parametrize(("tile", "block"), [(4, 8), (3, 10)])
def test_a_method_of_single_entries_gives_the_same_bits_in_any_chunks(name, tile, block, small_tiles):
    base, experts = pool(5, counts(name)[-1], coarse=True)
    whole = bits(fused(name, base, experts))
    small_tiles(tile, block)
    assert bits(fused(name, base, experts)) == whole


@pytest.mark.parametrize("name", STREAM)
@pytest.mark.parametrize("shape", [(4, 3), (7,), (), (3, 2, 2, 2)], ids=str)
def test_the_function_makes_nothing_on_another_device(name, shape):
    """Its inputs are on a graphics card that only pretends to be there; mixing devices is an error even so."""
    entry = methods[name]
    values = check(name, entry.parameters, FAST.get(name, {}))
    base, experts = pool(6, counts(name)[-1], shapes={"layers.0.weight": shape})
    (step,) = plan_for(name, base, experts, FAST.get(name, {}))
    with FakeTensorMode():
        tensors = [torch.empty(shape, device=CARD) for _ in range(len(experts) + 1)]
        arguments = [tensors[1:]] if entry.base == "unused" else [tensors[0], tensors[1:]]
        given, wanted = {**values, "site": step.site}, inspect.signature(entry.load()).parameters
        result = entry.load()(*arguments, **{key: value for key, value in given.items() if key in wanted})
        assert (str(result.device), result.shape) == (CARD, torch.Size(shape))
