"""NuSLERP's kernel against the torch function, with and without a base, and what it leaves to torch."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from fusing import plan_for
from fusionbench.errors import ConfigError
from fusionbench.kernels.angles import arc
from fusionbench.kernels.arc_between import ARC_BETWEEN, share_between
from fusionbench.parameters import check
from fusionbench.registry import methods
from fusionbench.weights.engine import run_plan
from fusionbench.weights.tensors import MemorySink

SHAPES = {"m": (7, 9), "v": (13,), "s": (), "e": (0, 3), "c": (3, 2, 2, 2), "one": (1, 1), "still": (4,)}


def models(seed: int, kind: torch.dtype, shapes=SHAPES):
    random = torch.Generator().manual_seed(seed)
    base = {name: torch.randn(shape, generator=random).to(kind) for name, shape in shapes.items()}
    experts = {
        name: {n: (t + 0.3 * torch.randn(t.shape, generator=random)).to(kind) for n, t in base.items()} for name in "ab"
    }
    for expert in experts.values():
        if "still" in base:
            expert["still"] = base["still"].clone()
    return base, experts


def both(base, experts, parameters, *, threads=1):
    """The kernel's tensors and the torch function's."""
    entry = methods["nuslerp"]
    assert entry.kernel == "fusionbench.kernels.arc_between:ARC_BETWEEN"
    plan = plan_for("nuslerp", base, experts, parameters)
    found = []
    for chosen in (entry, dataclasses.replace(entry, kernel="")):
        sink = MemorySink([step.output for step in plan])
        run_plan(plan, chosen, sink, values=check("nuslerp", entry.parameters, parameters), threads=threads)
        found.append(sink.weights)
    return found


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("with_base", [True, False])
@pytest.mark.parametrize("parameters", [{}, {"weights": [0.7, 0.1]}, {"straight": 1.0, "zero_norm": "arc"}], ids=str)
def test_the_kernel_equals_torch_but_for_the_last_place_of_sines(kind, with_base, parameters) -> None:
    base, experts = models(1, kind)
    fast, plain = both(base if with_base else None, experts, parameters)
    for name, expected in plain.items():
        torch.testing.assert_close(fast[name], expected, rtol=2 * float(torch.finfo(kind).eps), atol=1e-6)
    if with_base and not parameters:
        assert torch.equal(fast["still"], base["still"])


def test_several_blocks_and_threads_change_nothing() -> None:
    base, experts = models(2, torch.bfloat16, {"w": (1100, 1001)})
    one, plain = both(base, experts, {"weights": [1.0, 3.0]})
    two, _ = both(base, experts, {"weights": [1.0, 3.0]}, threads=2)
    assert torch.equal(one["w"], two["w"])
    torch.testing.assert_close(one["w"], plain["w"], rtol=0.008, atol=1e-6)


def test_two_task_vectors_at_a_right_angle_by_hand() -> None:
    """Half way between (2, 0) and (0, 2) the factors are sin 45° / sin 90°; the base (3, 3) is added."""
    base = {"w": torch.tensor([3.0, 3.0])}
    experts = {"a": {"w": torch.tensor([5.0, 3.0])}, "b": {"w": torch.tensor([3.0, 5.0])}}
    fast, _ = both(base, experts, {})
    assert fast["w"].tolist() == pytest.approx([3 + math.sqrt(2)] * 2)


def test_the_line_is_taken_above_a_cosine_and_where_a_vector_is_zero() -> None:
    near = np.array([[1.0, 0.9], [0.9, 1.0]])
    assert arc(near, 0.25, "line", 0.5) == (0.75, 0.25)
    angle = math.acos(0.9)
    bent = (math.sin(0.75 * angle) / math.sin(angle), math.sin(0.25 * angle) / math.sin(angle))
    assert arc(near, 0.25, "line", 0.95) == pytest.approx(bent)
    zero = np.array([[0.0, 0.0], [0.0, 1.0]])
    assert arc(zero, 0.5, "line", 1.0) == (0.5, 0.5)
    assert arc(zero, 0.5, "arc", 1.0) == pytest.approx((math.sqrt(0.5),) * 2)


@pytest.mark.parametrize(("weights", "words"), [((1.0,), "exactly two experts, got 1"), ((1.0, -1.0), "sum to zero")])
def test_what_gives_no_share_is_refused(weights, words) -> None:
    with pytest.raises(ConfigError, match=words):
        share_between(weights)
    assert share_between((1.0, 3.0)) == 0.75


def test_lines_that_turn_each_by_an_angle_are_left_to_torch() -> None:
    given = check("nuslerp", methods["nuslerp"].parameters, {})
    assert ARC_BETWEEN.serves(given)
    assert not ARC_BETWEEN.serves({**given, "mode": "row"})
