import pytest
import torch
from matrices import draw, gaps, place, tensor

from fusing import fuse
from fusionbench.methods._inner import inner_merge, prepared

NEUTRAL = {"alpha": 1.0, "beta": 0.0}


@pytest.mark.parametrize(
    "weights",
    [0.5, [1.0, 2.0, -1.0], {"a": 1.0, "c": -1.0, "b": 2.0}],
)
def test_inner_parameters_are_resolved_for_each_expert(weights):
    base, experts = draw(3)
    inner = {"name": "ties", "density": 0.4, "weights": weights}
    plain = fuse("ties", base, experts, {"density": 0.4, "weights": weights})
    assert gaps(plain, fuse("lines", base, experts, {**NEUTRAL, "inner": inner}), 1e-6) == set()


@pytest.mark.parametrize(
    "density", [{"a": 0.2, "b": 0.5, "c": 1.0}, [{"filter": "wide", "value": 0.5}, {"value": 0.2}]]
)
def test_inner_parameters_are_resolved_for_each_tensor_before_the_first_pass(density):
    base, experts = draw(3)
    given = {"density": density, "scope": "tensor"}
    plain = fuse("ties", base, experts, given)
    assert gaps(plain, fuse("lines", base, experts, {**NEUTRAL, "inner": {"name": "ties", **given}}), 1e-6) == set()


def test_a_peer_s_arithmetic_holds_within():
    base, experts = draw(2)
    inner = {"name": "ties", "compat": "fusion_bench", "density": 0.1}
    theirs = fuse("ties", base, experts, {"keep": "official", "zero_sign": "majority", "density": 0.1})
    assert gaps(theirs, fuse("lines", base, experts, {**NEUTRAL, "inner": inner}), 1e-6) == set()


def test_methods_may_stand_within_methods_within_methods():
    base, experts = draw(2)
    inner = {"name": "knots", "inner": {"name": "ties", "density": 0.5}}
    plain = fuse("knots", base, experts, {"inner": {"name": "ties", "density": 0.5}})
    assert gaps(plain, fuse("lines", base, experts, {**NEUTRAL, "inner": inner}), 1e-6) == set()


def test_a_method_without_a_base_is_called_without_one():
    merge = inner_merge({"name": "simple_average"}, "lines")
    assert merge(tensor([9.0]), [tensor([1.0]), tensor([2.0])], None).equal(tensor([1.5]))


def test_draws_within_are_those_of_the_place():
    merge = inner_merge({"name": "dare", "density": 0.5}, "lines")
    base, expert = torch.zeros(50), torch.ones(50)
    one, same = (merge(base, [expert], place("one", experts=("a",))) for _ in range(2))
    assert one.equal(same)
    assert not one.equal(merge(base, [expert], place("two", experts=("a",))))


def test_a_method_without_a_first_pass_is_ready():
    merge = inner_merge({"name": "task_arithmetic"}, "lines")
    assert prepared(merge, lambda: iter(()), {}) is merge
